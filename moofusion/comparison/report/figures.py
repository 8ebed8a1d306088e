"""All figures of a report: which there are, and their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moofusion.comparison.report.across import Family
from moofusion.comparison.report.fronts import plot_fronts
from moofusion.comparison.report.heatmap import plot_coefficients
from moofusion.comparison.report.parallel import plot_parallel
from moofusion.comparison.report.progress import plot_progress
from moofusion.comparison.report.ranks import plot_ranks
from moofusion.comparison.report.scores import Section
from moofusion.comparison.report.style import save, styled
from moofusion.comparison.report.surfaces import compared_pairs, plot_attainment, plot_differences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "draw_figures"]


@dataclass(frozen=True)
class Picture:
    """A figure that was written.

    Attributes:
        name: Stem of its files.
        alt: What it shows, in words.
        section: Slug of its problem; None: it is about all of them.
        interactive: Whether the page has an interactive figure in its place.
        timed: Whether it shows measured seconds.
    """

    name: str
    alt: str
    section: str | None
    interactive: bool = False
    timed: bool = False


def draw_figures(
    sections: Sequence[Section], families: Sequence[Family], folder: Path
) -> list[Picture]:
    """Draw every figure that the study gives, as PNG and SVG.

    Args:
        sections: The problems.
        families: Groups of problems.
        folder: Where to write.
    """
    pictures = []
    with styled():
        for section in sections:
            for picture, draw in _of(section):
                save(draw(), folder / picture.name)
                pictures.append(picture)
        for family in families:
            ranking = family.ranking
            if ranking is not None:
                title = f"Average ranks over all problems, {family.budget}"
                save(plot_ranks(ranking, title), folder / f"{family.slug}-ranks")
                pictures.append(
                    Picture(f"{family.slug}-ranks", f"{title}. {ranking.caption}", None)
                )
    return pictures


def _of(section: Section) -> list[tuple[Picture, Callable[[], Figure]]]:
    """Figures of one problem, by its number of objectives; `draw` is called once."""
    slug, M = section.slug, len(section.problem.tasks)
    found: list[tuple[Picture, Callable[[], Figure]]] = []

    def add(
        name: str,
        alt: str,
        draw: Callable[[], Figure],
        *,
        interactive: bool = False,
        timed: bool = False,
    ) -> None:
        picture = Picture(f"{slug}-{name}", alt, slug, interactive, timed)
        found.append((picture, draw))

    for split in reversed(section.problem.splits):
        if M > 1:
            add(
                f"front-{split}",
                f"Front of each algorithm's median run, {split} split, with base, experts and "
                "merges without search",
                lambda split=split: plot_fronts(section, split),  # type: ignore[misc]
                interactive=True,
            )
    add(
        "anytime",
        "Hypervolume found so far against evaluations and cost: median and interquartile band",
        lambda: plot_progress(section),
        interactive=True,
    )
    add(
        "anytime-seconds",
        "Hypervolume found so far against device seconds: median and interquartile band",
        lambda: plot_progress(section, ["seconds"]),
        interactive=True,
        timed=True,
    )
    split = section.split
    if M in (2, 3) and any(len(run.reported) for run in section.runs):
        what = "" if M == 2 else ", for each pair of objectives whatever the third"
        add(
            "attainment",
            f"What half of the runs attained, with quartiles, {split} split{what}",
            lambda: plot_attainment(section),
        )
    if M == 2 and compared_pairs(section):
        add(
            "differences",
            f"Where one algorithm attained more than another, {split} split",
            lambda: plot_differences(section),
        )
    if M > 3:
        add(
            "parallel",
            f"Front of each algorithm's median run in parallel coordinates, {split} split",
            lambda: plot_parallel(section, split),
            interactive=True,
        )
    front = section.front()
    if front is not None and np.isfinite(front.X).any():
        add(
            "coefficients",
            "Coefficients of the models of the pooled front, in order along it",
            lambda: plot_coefficients(section, front),
        )
    return found
