"""Parallel coordinates: fronts of more than three objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moofusion.comparison.report.scores import Section
from moofusion.comparison.report.style import INK, headline, legend, looks, reference_looks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_parallel"]


def plot_parallel(section: Section, split: str) -> Figure:
    """A panel for each algorithm, a line for each model of a typical run; up is better.

    Objectives are normalized: the best anchor is at 1, the worst at 0. Dark lines: controls.

    Args:
        section: The problem.
        split: ``"search"`` or ``"test"``.
    """
    from matplotlib.figure import Figure

    problem, algorithms = section.problem, section.algorithms
    M = len(problem.tasks)
    columns = min(len(algorithms), 3)
    rows = -(-len(algorithms) // columns)
    figure = Figure(
        figsize=(max(0.6 * M, 2.6) * columns + 2.6, 2.6 * rows + 0.6), layout="constrained"
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    styles = looks(list(section.names))
    experts = [name for name in problem.anchors[split] if name != "base"]
    controls = {
        name: 1 - problem.normalized(values[None], split)[0]
        for name, values in section.references(split).items()
        if name not in experts
    }
    marks = reference_looks(list(controls), experts)
    places = np.arange(M)
    for number, (algorithm, axes) in enumerate(zip(algorithms, panels, strict=False)):
        run = section.typical(algorithm)
        good = 1 - section.reported(run, split)
        alpha = float(np.clip(12 / max(len(good), 1), 0.08, 0.6))
        axes.plot(places, good.T, color=styles[algorithm].color, alpha=alpha, linewidth=1)
        for name, values in controls.items():
            axes.plot(
                places,
                values,
                color=INK,
                linewidth=0.9,
                alpha=0.85,
                marker=marks[name].marker,
                markersize=5,
                markerfacecolor=INK if name == "base" else "white",
                markeredgecolor=INK,
                markeredgewidth=0.9,
                label=name,
            )
        axes.set_title(f"{section.names[algorithm]}: {len(good)} models", loc="left")
        axes.set_xticks(
            places, problem.tasks, rotation=45, ha="right", rotation_mode="anchor", fontsize=8.5
        )
        axes.grid(axis="x", color="#c9ced6", linewidth=0.9)
        axes.set_xlim(-0.15, M - 0.85)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        below = number + columns < len(algorithms)
        axes.tick_params(axis="x", length=0, labelbottom=not below)
    for axes in panels[len(algorithms) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("1: best anchor, 0: worst")
    legend(figure, panels[0])
    headline(figure, section.title, f"front of the median run, {split} split")
    return figure
