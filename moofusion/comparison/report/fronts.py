"""Fronts of all algorithms for every pair of objectives, with anchors and controls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.comparison.quality import nondominated
from moofusion.comparison.report.scores import Section
from moofusion.comparison.report.style import (
    INK,
    axis_label,
    headline,
    legend,
    looks,
    plain,
    reference_looks,
    shown,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_fronts"]

Array = NDArray[np.float64]


def plot_fronts(section: Section, split: str) -> Figure:
    """All pairs of objectives on one split, in units of the metrics.

    The front of an algorithm is that of a typical run, the one of median hypervolume. Two
    objectives get a step line through the points that are not dominated on this split; three and
    more make a triangle of panels, where the panels of a column share their horizontal axis and
    those of a row their vertical one.

    Args:
        section: The problem, with two objectives or more.
        split: ``"search"`` or ``"test"``.
    """
    from matplotlib.figure import Figure

    n = len(section.problem.tasks)
    side = {2: 4.6, 3: 3.2, 4: 2.7}.get(n, 2.2)
    extra = 2.2 if n == 2 else 0.5
    size = (side * (n - 1) + extra, side * (n - 1) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(n - 1, n - 1)
    pairs = zip(section.problem.tasks, section.problem.objectives, strict=True)
    labels = [axis_label(*pair) for pair in pairs]
    panels: dict[tuple[int, int], Axes] = {}
    for row in range(1, n):
        for column in range(row):
            axes = figure.add_subplot(
                grid[row - 1, column],
                sharex=panels.get((row - 1, column)),
                sharey=panels.get((row, 0)),
            )
            panels[row, column] = axes
            _draw(axes, section, split, (column, row))
            if row == n - 1:
                axes.set_xlabel(labels[column])
            if column == 0:
                axes.set_ylabel(labels[row])
            axes.tick_params(labelbottom=row == n - 1, labelleft=column == 0)
    if n == 2:
        legend(figure, panels[1, 0])
    else:
        # The empty corner of the triangle.
        handles, texts = panels[1, 0].get_legend_handles_labels()
        figure.legend(
            handles, texts, loc="upper right", bbox_to_anchor=(0.985, 0.93), borderaxespad=0
        )
    headline(figure, section.title, f"front of the median run, {split} split")
    return figure


def _draw(axes: Axes, section: Section, split: str, pair: tuple[int, int]) -> None:
    problem, columns = section.problem, list(pair)
    metrics = [problem.objectives[j] for j in columns]
    for algorithm, look in looks(list(section.names)).items():
        if algorithm not in section.algorithms:
            continue
        run = section.typical(algorithm)
        points = shown(run.reported_values(split)[:, columns], metrics)
        if len(problem.tasks) == 2 and len(points):
            _outline(axes, points, section.reported(run, split), look.color)
        axes.plot(
            *points.T,
            linestyle="none",
            marker=look.marker,
            markersize=5.5 if len(problem.tasks) <= 3 else 4.5,
            color=look.color,
            markeredgecolor="white",
            markeredgewidth=0.4,
            alpha=0.9,
            label=section.names[algorithm],
            zorder=3,
        )
    _references(axes, section, split, pair)
    axes.margins(0.1)
    plain(axes)


def _outline(axes: Axes, points: Array, F: Array, color: str) -> None:
    """The border of what two objectives reach: a step line through non-dominated points."""
    kept = np.flatnonzero(nondominated(F))
    kept = kept[F[kept, 0].argsort()]
    # In order of objective 1 getting worse: along the horizontal axis first, then up.
    axes.step(*points[kept].T, where="post", color=color, linewidth=1.1, alpha=0.7, zorder=2)


def _references(axes: Axes, section: Section, split: str, pair: tuple[int, int]) -> None:
    from matplotlib.patheffects import withStroke

    problem = section.problem
    values = section.references(split)
    metrics = [problem.objectives[j] for j in pair]
    experts = [name for name in problem.anchors[split] if name != "base"]
    tasks = [problem.tasks[j] for j in pair]
    labelled = False
    for name, look in reference_looks(list(values), experts).items():
        point = shown(values[name][list(pair)], metrics)
        expert = name in experts
        control = name != "base" and not expert
        style: dict[str, Any] = {
            "markersize": 11 if expert else 8 if name == "base" else 6.5,
            "markerfacecolor": "none" if control else INK,
            "markeredgecolor": INK if control else "white",
            "markeredgewidth": 1.1 if control else 0.7,
        }
        label = "expert" if expert and not labelled else None if expert else name
        labelled |= expert
        axes.plot(*point, linestyle="none", marker=look.marker, label=label, zorder=5, **style)
        if name in tasks:
            axes.annotate(
                name,
                (point[0], point[1]),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=INK,
                zorder=6,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )
