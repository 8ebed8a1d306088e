"""Attainment: what half of the runs reached, and where one algorithm reached more than another."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moofusion.comparison.attainment import (
    AttainmentDifference,
    attainment_difference,
    attainment_surfaces,
)
from moofusion.comparison.report.scores import Section
from moofusion.comparison.report.style import (
    Look,
    axis_label,
    headline,
    legend,
    looks,
    plain,
    shown,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compared_pairs", "plot_attainment", "plot_differences"]

Array = NDArray[np.float64]

_MOST_PAIRS = 6


def plot_attainment(section: Section) -> Figure:
    """Median attainment surface of every algorithm, with the region between the quartiles.

    With three objectives there is a panel for each pair: what was reached in these two, whatever
    the third.

    Args:
        section: A problem with two or three objectives.
    """
    from matplotlib.figure import Figure

    n = len(section.problem.tasks)
    pairs = list(combinations(range(n), 2))
    figure = Figure(
        figsize=(3.7 * len(pairs) + (1.8 if n == 2 else 1.3), 4.1), layout="constrained"
    )
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    for pair, axes in zip(pairs, panels, strict=True):
        scale = _Scale(section, pair)
        for algorithm, look in looks(list(section.names)).items():
            runs = scale.runs(algorithm) if algorithm in section.algorithms else []
            if runs:
                _draw_surfaces(axes, scale, runs, look, section.names[algorithm])
        scale.label(axes)
        plain(axes)
    what = f"median attainment and quartiles, {section.split} split"
    headline(figure, section.title, what)
    legend(figure, panels[0])
    return figure


def _draw_surfaces(axes: Axes, scale: _Scale, runs: list[Array], look: Look, label: str) -> None:
    lower, median, upper = (scale.stairs(s.points) for s in attainment_surfaces(runs))
    axes.fill(*np.vstack([lower, upper[::-1]]).T, color=look.color, alpha=0.16, linewidth=0)
    axes.plot(*median.T, color=look.color, linestyle=look.dashes, linewidth=1.6, label=label)


def compared_pairs(section: Section) -> list[tuple[str, str]]:
    """Pairs of algorithms whose difference is drawn.

    All of them where they are few, else the algorithm with the largest mean hypervolume against
    the others. Pairs need a seed in common.
    """
    names = [a for a in section.algorithms if any(len(run.reported) for run in section.of(a))]
    pairs = list(combinations(names, 2))
    if len(pairs) > _MOST_PAIRS:
        best = max(names, key=lambda a: float(np.mean(section.hypervolumes(a))))
        pairs = [(best, other) for other in names if other != best]
    return [pair for pair in pairs if _common_seeds(section, *pair)]


def plot_differences(section: Section) -> Figure:
    """For pairs of algorithms, where in the objective space more runs of one of them got to.

    Args:
        section: A problem with two objectives.
    """
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure

    pairs = compared_pairs(section)
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(3.3 * columns + 1.0, 3.2 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    scale = _Scale(section, (0, 1))
    norm = TwoSlopeNorm(0, -1, 1)
    for (first, second), axes in zip(pairs, panels, strict=False):
        seeds = _common_seeds(section, first, second)
        difference = attainment_difference(scale.runs(first, seeds), scale.runs(second, seeds))
        _draw_difference(axes, scale, difference, norm)
        scale.label(axes)
        axes.label_outer()
        plain(axes)
        axes.set_title(f"{section.names[first]} minus {section.names[second]}")
    for axes in panels[len(pairs) :]:
        axes.set_visible(False)
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(norm, _COLORMAP), ax=list(panels), shrink=0.85)
    bar.set_label("share of runs (blue: the first reached more)")
    bar.outline.set_visible(False)
    what = f"difference of attainment, {section.split} split"
    headline(figure, section.title, what)
    return figure


_COLORMAP = "RdBu"


def _draw_difference(
    axes: Axes, scale: _Scale, difference: AttainmentDifference, norm: object
) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    patches = []
    for low_x, low_y, high_x, high_y in difference.rectangles:
        corners = scale.metric(np.minimum([[low_x, low_y], [high_x, high_y]], scale.far))
        (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
        patches.append(Rectangle((x0, y0), x1 - x0, y1 - y0))
    found = PatchCollection(patches, cmap=_COLORMAP, norm=norm, linewidth=0, antialiased=False)
    found.set_array(difference.differences)
    axes.add_collection(found)


def _common_seeds(section: Section, first: str, second: str) -> list[int]:
    """Seeds of which both have a run with a front."""
    found = [{run.cell.seed for run in section.of(a) if len(run.reported)} for a in (first, second)]
    return sorted(found[0] & found[1])


class _Scale:
    """Two objectives of a problem: normalized for the surfaces, metrics for the axes.

    Args:
        section: The problem.
        pair: The objectives.
    """

    def __init__(self, section: Section, pair: tuple[int, int]) -> None:
        self.section, self.pair = section, list(pair)
        points = [section.reported(run, section.split)[:, self.pair] for run in section.runs]
        union = np.vstack(points)
        low = union.min(axis=0)
        high = union.max(axis=0)
        spread = np.where(high > low, high - low, 1.0)
        #: Upper end of what is drawn, in normalized objectives.
        self.far = high + 0.05 * spread
        corners = self.metric(np.array([low - 0.07 * spread, self.far]))
        self.limits = corners.min(axis=0), corners.max(axis=0)

    def runs(self, algorithm: str, seeds: list[int] | None = None) -> list[Array]:
        """Reported fronts in the two objectives, without empty ones."""
        runs = self.section.of(algorithm)
        split = self.section.split
        return [
            self.section.reported(run, split)[:, self.pair]
            for run in runs
            if len(run.reported) and (seeds is None or run.cell.seed in seeds)
        ]

    def metric(self, F: Array) -> Array:
        """Metric values, as people read them, of normalized objectives ``(P, 2)``."""
        problem = self.section.problem
        metrics = [problem.objectives[j] for j in self.pair]
        ideal, nadir = problem.scales[self.section.split][:, self.pair]
        raw = ideal + F * np.where(nadir > ideal, nadir - ideal, 1.0)
        values = [[m.value(v) for v in raw[:, j]] for j, m in enumerate(metrics)]
        return shown(np.array(values).T, metrics)

    def stairs(self, points: Array) -> Array:
        """The boundary of what `points` dominate, as a line in metric values."""
        points = points[points[:, 0].argsort()]
        x = np.r_[np.repeat(points[:, 0], 2), self.far[0]]
        y = np.r_[self.far[1], np.repeat(points[:, 1], 2)]
        return self.metric(np.minimum(np.column_stack([x, y]), self.far))

    def label(self, axes: Axes) -> None:
        """Names and limits of the axes."""
        problem = self.section.problem
        texts = [axis_label(problem.tasks[j], problem.objectives[j]) for j in self.pair]
        axes.set_xlabel(texts[0])
        axes.set_ylabel(texts[1])
        low, high = self.limits
        axes.set_xlim(low[0], high[0])
        axes.set_ylim(low[1], high[1])
