"""Pictures of fronts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.comparison.quality import nondominated
from moofusion.tasks import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moofusion.comparison.result import SearchResult

__all__ = ["plot_front"]

Array = NDArray[np.float64]

_FRONT = "#1f6fb4"
_CLOUD = "#b9c0cb"
_KNEE = "#d1495b"
_EXPERTS = ("#e08a1e", "#3a9d5d", "#8d5fb8", "#b5563c", "#00868b", "#a3873b", "#c2569a", "#596273")
_CONTROLS = {"average": ("s", "#333333"), "task arithmetic 0.3": ("D", "#8a8a8a")}


def plot_front(result: SearchResult, *, split: str | None = None) -> Figure:
    """All pairs of objectives, with base, experts, controls and the knee marked.

    Axes show the metrics themselves, better to the upper right (or as the metric's direction
    says). Three and more objectives make a triangle of panels: the panels of a column share
    their horizontal axis, those of a row their vertical one, and the models that are best for
    this pair alone stand out, joined by the border of what is reached. A single objective is drawn
    along one axis, a line for each model. On the search split every other evaluated model is shown
    as a grey dot.

    Args:
        result: What a search found.
        split: ``"search"`` or ``"test"``; by default test where there is one.

    Example:
        >>> import moofusion
        >>> from moofusion.testing import toy_problem
        >>> found = moofusion.search(toy_problem(("a", "b")), "random", evaluations=20, seed=1)
        >>> figure = plot_front(found, split="search")
    """
    from moofusion.comparison.figure import ShownFigure

    split = split or result.splits[-1]
    tasks, metrics = result.front.tasks, result.front.metrics
    values = _shown(result.front.values(split), metrics)
    references = _shown(result.references.values(split), metrics)
    cloud = _shown(_others(result), metrics) if split == "search" else None
    labels = [_axis_label(task, metric) for task, metric in zip(tasks, metrics, strict=True)]
    n = len(tasks)
    if n == 1:
        figure: Figure = ShownFigure(
            figsize=(7.6, 1.4 + 0.42 * (len(references) + 1)), layout="constrained"
        )
        _draw_line(figure.add_subplot(), result, values, references, cloud, labels[0])
    else:
        side = 4.4 if n == 2 else 3.2 if n == 3 else 2.7
        extra = 2.4 if n == 2 else 0.6
        figure = ShownFigure(
            figsize=(side * (n - 1) + extra, side * (n - 1) + 0.6), layout="constrained"
        )
        grid = figure.add_gridspec(n - 1, n - 1)
        panels: dict[tuple[int, int], Any] = {}
        for row in range(1, n):
            for column in range(row):
                above, left = panels.get((row - 1, column)), panels.get((row, 0))
                axes = figure.add_subplot(grid[row - 1, column], sharex=above, sharey=left)
                panels[row, column] = axes
                pair = [column, row]
                seen = None if cloud is None else cloud[:, pair]
                if seen is not None:
                    axes.scatter(
                        seen[:, 0], seen[:, 1], s=9, color=_CLOUD, linewidths=0, label="evaluated"
                    )
                F = result.front.objectives(split)[:, pair]
                _draw_front(axes, F, values[:, pair], alone=n == 2)
                _draw_marks(axes, result, values[:, pair], references[:, pair])
                _plain(axes)
                _label_outer(axes, labels[column], labels[row], row == n - 1, column == 0)
        _legend(figure, panels[1, 0], corner=n > 2)
    figure.suptitle(
        f"{result.settings['problem']}: {result.settings['algorithm']}, "
        f"{len(result.evaluated)} evaluations, {split} split",
        fontsize=11,
    )
    return figure


def _draw_front(axes: Axes, F: Array, values: Array, *, alone: bool) -> None:
    """Models of the front, and the border of what they reach in these two objectives.

    Where there are others (not `alone`), the models that are best for this pair stand out.
    """
    strength = 0.8 if alone else 0.35
    axes.scatter(
        values[:, 0], values[:, 1], s=24, color=_FRONT, alpha=strength, linewidths=0,
        label="front", zorder=3,
    )  # fmt: skip
    shown = np.flatnonzero(np.isfinite(F).all(axis=1))
    shown = shown[nondominated(F[shown])]
    line = values[shown[F[shown, 0].argsort()]]
    if not alone:
        axes.scatter(
            line[:, 0], line[:, 1], s=24, color=_FRONT, linewidths=0, label="front of the pair",
            zorder=3.5,
        )  # fmt: skip
    axes.step(line[:, 0], line[:, 1], where="post", color=_FRONT, linewidth=1, alpha=0.6, zorder=2)


def _draw_marks(axes: Axes, result: SearchResult, values: Array, references: Array) -> None:
    """Base, experts, controls and the knee."""
    for index, (label, style) in enumerate(_marks(result)):
        axes.plot(*references[index], label=label, zorder=4, **style)
    knee = result.front.choose(by="knee")
    axes.plot(
        *values[knee], linestyle="none", marker="o", markersize=11, markerfacecolor="none",
        markeredgecolor=_KNEE, markeredgewidth=2, label="knee", zorder=5,
    )  # fmt: skip


def _draw_line(
    axes: Axes,
    result: SearchResult,
    values: Array,
    references: Array,
    cloud: Array | None,
    label: str,
) -> None:
    """A single objective: one line for each reference and one for the best model found."""
    marks = _marks(result)
    best = f"best of {result.settings['algorithm']}"
    for index, (_, style) in enumerate(marks):
        axes.plot(references[index, 0], index, zorder=4, **style)
    place = len(marks)
    if cloud is not None:
        axes.plot(
            cloud[:, 0], np.full(len(cloud), place), linestyle="none", marker="|", markersize=12,
            color=_CLOUD, zorder=2,
        )  # fmt: skip
    axes.plot(values[0, 0], place, marker="o", markersize=9, color=_FRONT, zorder=5)
    axes.set_yticks(range(place + 1), [name for name, _ in marks] + [best])
    axes.set_xlabel(label)
    _plain(axes, numbers=False)
    axes.set_ylim(place + 0.6, -0.6)


def _label_outer(axes: Axes, xlabel: str, ylabel: str, bottom: bool, left: bool) -> None:
    """Axis labels and numbers on the outside of the triangle alone."""
    if bottom:
        axes.set_xlabel(xlabel)
    if left:
        axes.set_ylabel(ylabel)
    axes.tick_params(labelbottom=bottom, labelleft=left)


def _plain(axes: Axes, *, numbers: bool = True) -> None:
    """Ticks, grid and frame; `numbers` says whether the vertical axis counts something."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if numbers:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.margins(0.07)
    axes.grid(color="#e6e8ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Axes, *, corner: bool) -> None:
    """Legend beside a single panel, or in the empty corner of the triangle."""
    handles, labels = axes.get_legend_handles_labels()
    if corner:
        figure.legend(
            handles, labels, loc="upper right", frameon=False, bbox_to_anchor=(0.98, 0.93)
        )
    else:
        figure.legend(handles, labels, loc="outside right center", frameon=False)


def _marks(result: SearchResult) -> list[tuple[str, dict[str, Any]]]:
    """Label and style of every reference model, in order."""
    marks: list[tuple[str, dict[str, Any]]] = []
    shared = {"linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 0.8}
    experts = 0
    for label in result.references.labels:
        if label == "base":
            style = {"marker": "X", "markersize": 10, "color": "black"}
        elif label in _CONTROLS:
            marker, color = _CONTROLS[label]
            style = {"marker": marker, "markersize": 7.5, "color": color}
        else:
            style = {"marker": "*", "markersize": 14, "color": _EXPERTS[experts % len(_EXPERTS)]}
            experts += 1
            label = f"{label} expert"
        marks.append((label, shared | style))
    return marks


def _others(result: SearchResult) -> Array:
    """Metric values of evaluated models that are not on the front."""
    front = set(map(tuple, result.front.search.tolist()))
    return np.array(
        [row for row in result.evaluated.tolist() if tuple(row) not in front], float
    ).reshape(-1, len(result.front.tasks))


def _shown(values: Array, metrics: tuple[Metric, ...]) -> Array:
    scale = np.array([100.0 if metric.percent else 1.0 for metric in metrics])
    return np.asarray(values * scale)


def _axis_label(task: str, metric: Metric) -> str:
    unit = " (%)" if metric.percent else ""
    sense = "" if metric.direction == "max" else "\n(less is better)"
    return f"{task} {metric.name}{unit}{sense}"
