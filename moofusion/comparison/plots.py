"""Pictures of fronts."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.tasks import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from moofusion.comparison.result import SearchResult

__all__ = ["plot_front"]

_FRONT = "#1f6fb4"
_CLOUD = "#c9ced6"
_KNEE = "#d1495b"
_EXPERTS = ("#e08a1e", "#3a9d5d", "#8d5fb8", "#b5563c", "#00868b", "#a3873b", "#c2569a", "#596273")
_CONTROLS = {"average": ("s", "#333333"), "task arithmetic 0.3": ("D", "#777777")}


def plot_front(result: SearchResult, *, split: str | None = None) -> Figure:
    """All pairs of objectives, with base, experts, controls and the knee marked.

    Axes show the metrics themselves, better to the upper right (or as the metric's direction
    says). On the search split every evaluated model is shown as a grey dot.

    Args:
        result: What a search found.
        split: ``"search"`` or ``"test"``; by default test where there is one.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    split = split or result.splits[-1]
    front = result.front
    pairs = list(combinations(range(len(front.tasks)), 2)) or [(0, 0)]
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(4.3 * columns + 0.4, 3.9 * rows + 1.2), layout="constrained")
    knee = front.choose(by="knee")
    values = _shown(front.values(split), front.metrics)
    references = _shown(result.references.values(split), front.metrics)
    cloud = _shown(result.evaluated, front.metrics) if split == "search" else None
    for number, (i, j) in enumerate(pairs):
        axes = figure.add_subplot(rows, columns, number + 1)
        if cloud is not None:
            axes.scatter(
                cloud[:, i], cloud[:, j], s=12, color=_CLOUD, label="evaluated", linewidths=0
            )
        axes.scatter(
            values[:, i], values[:, j], s=26, color=_FRONT, alpha=0.85, linewidths=0,
            label="front", zorder=3,
        )  # fmt: skip
        for label, style, index in _marks(result):
            axes.plot(
                references[index, i], references[index, j], linestyle="none", label=label,
                markeredgecolor="white", markeredgewidth=0.7, zorder=4, **style,
            )  # fmt: skip
        axes.plot(
            values[knee, i], values[knee, j], linestyle="none", marker="o", markersize=11,
            markerfacecolor="none", markeredgecolor=_KNEE, markeredgewidth=2, label="knee",
            zorder=5,
        )  # fmt: skip
        axes.set_xlabel(_axis_label(front.tasks[i], front.metrics[i]))
        axes.set_ylabel(_axis_label(front.tasks[j], front.metrics[j]))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.grid(color="#e6e8ec", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False
    )
    figure.suptitle(
        f"{result.settings['problem']}: {result.settings['algorithm']}, "
        f"{len(result.evaluated)} evaluations, {split} split",
        fontsize=12,
    )
    return figure


def _marks(result: SearchResult) -> list[tuple[str, dict[str, Any], int]]:
    """Label, style and row of every reference model."""
    marks: list[tuple[str, dict[str, Any], int]] = []
    colors = iter(_EXPERTS * (1 + len(result.references) // len(_EXPERTS)))
    for index, label in enumerate(result.references.labels):
        if label == "base":
            style = {"marker": "X", "markersize": 11, "color": "black"}
        elif label in _CONTROLS:
            marker, color = _CONTROLS[label]
            style = {"marker": marker, "markersize": 8, "color": color}
        else:
            style = {"marker": "*", "markersize": 15, "color": next(colors)}
            label = f"{label} expert"
        marks.append((label, style, index))
    return marks


def _shown(values: NDArray[np.float64], metrics: tuple[Metric, ...]) -> NDArray[np.float64]:
    return np.asarray(values * np.array([100.0 if m.percent else 1.0 for m in metrics]))


def _axis_label(task: str, metric: Metric) -> str:
    unit = " (%)" if metric.percent else ""
    sense = "" if metric.direction == "max" else ", less is better"
    return f"{task}: {metric.name}{unit}{sense}"
