"""Anytime hypervolume: median and interquartile band over seeds against what was spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moofusion.comparison.curves import Band, band, checkpoints
from moofusion.comparison.report.scores import AXES, Section
from moofusion.comparison.report.style import Look, headline, legend, looks, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bands", "limits", "plot_progress"]

Array = NDArray[np.float64]

_COSTS = 200


def bands(section: Section, axis: str) -> dict[str, Band]:
    """The band of every algorithm at costs common to all.

    Args:
        section: The problem.
        axis: One of :data:`~moofusion.comparison.report.scores.AXES`.
    """
    curves = {a: section.curves(a, axis) for a in section.algorithms}
    union = np.unique(np.concatenate([c.x for found in curves.values() for c in found]))
    grid = union[checkpoints(len(union), _COSTS) - 1]
    return {a: band(found, x=grid) for a, found in curves.items()}


def plot_progress(section: Section, axes: Sequence[str] = ("evaluations", "cost")) -> Figure:
    """Hypervolume on the search split against one or more kinds of cost.

    The line is solid while all runs of an algorithm go on, and dotted from where the first ended.

    Args:
        section: The problem.
        axes: What to draw against, a panel each.
    """
    from matplotlib.figure import Figure

    size = (3.9 * len(axes) + 1.6, 3.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    styles = looks(list(section.names))
    for axis, panel in zip(axes, panels, strict=True):
        for algorithm, found in bands(section, axis).items():
            _draw(panel, found, styles[algorithm], section.names[algorithm])
        panel.set_xlabel(AXES[axis])
        panel.set_xlim(left=0)
        plain(panel)
        if axis == "cost":
            panel.xaxis.set_major_formatter(_short)
    panels[0].set_ylabel("normalized hypervolume, search")
    headline(figure, section.title, "hypervolume found so far: median and interquartile band")
    panels[0].set_ylim(*limits(section))
    legend(figure, panels[0])
    return figure


def _draw(axes: Axes, found: Band, look: Look, label: str) -> None:
    axes.fill_between(
        found.x, found.lower, found.upper, step="post", color=look.color, alpha=0.16, linewidth=0
    )
    whole = found.running == found.n_runs
    last = int(np.flatnonzero(whole).max(initial=0)) + 1
    axes.step(
        found.x[:last],
        found.median[:last],
        where="post",
        color=look.color,
        linestyle=look.dashes,
        linewidth=1.8,
        label=label,
    )
    rest = slice(last - 1, None)
    axes.step(
        found.x[rest], found.median[rest], where="post", color=look.color, linestyle=":",
        linewidth=1.3,
    )  # fmt: skip


def limits(section: Section) -> tuple[float, float]:
    """Hypervolumes worth showing: from what the runs had after a tenth of their evaluations on."""
    curves = [c for a in section.algorithms for c in section.curves(a, "evaluations")]
    low, high = min(c.y[len(c.y) // 10] for c in curves), max(c.y[-1] for c in curves)
    margin = 0.06 * (high - low) or 0.05
    return max(float(low - margin), 0.0), float(high + margin)


def _short(value: float, _: int) -> str:
    """Large numbers in thousands or millions."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
