"""Critical-difference diagram: average ranks over problems, bars join what is not told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moofusion.comparison.ranking import ProblemRanking
from moofusion.comparison.report.style import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_ranks"]

_ROW = 0.3


def plot_ranks(ranking: ProblemRanking, title: str) -> Figure:
    """Ranks on one axis, best to the left, names at the sides.

    Args:
        ranking: Ranks and cliques.
        title: Title of the figure.

    Source: Demsar 2006, Section 3.2.3; with Wilcoxon tests there is no single critical
    difference to draw, only the cliques.
    """
    from matplotlib.figure import Figure

    names, n = list(ranking.ranks), len(ranking.ranks)
    half = (n + 1) // 2
    bars = len(ranking.cliques)
    depth = 0.28 + 0.16 * bars + _ROW * half
    figure = Figure(figsize=(7.2, depth + 1.45), layout="constrained")
    axes = figure.add_subplot()
    span = max(n - 1, 1)
    axes.set_xlim(1 - 0.42 * span, n + 0.42 * span)
    axes.set_ylim(-depth, 0.32)
    axes.axis("off")
    axes.plot([1, n], [0, 0], color=INK, linewidth=1.2)
    for rank in range(1, n + 1):
        axes.plot([rank, rank], [0, 0.07], color=INK, linewidth=1.2)
        axes.text(rank, 0.12, f"{rank}", ha="center", va="bottom", fontsize=9)
    for i, clique in enumerate(ranking.cliques):
        ends = [ranking.ranks[clique[0]], ranking.ranks[clique[-1]]]
        y = -0.14 - 0.16 * i
        reach = 0.02 * span
        axes.plot(
            [ends[0] - reach, ends[1] + reach], [y, y], color=INK, linewidth=4,
            solid_capstyle="butt",
        )  # fmt: skip
    for i, name in enumerate(names):
        left = i < half
        row = i if left else n - 1 - i
        level = -(0.28 + 0.16 * bars + _ROW * row)
        place = ranking.ranks[name]
        end = 1 - 0.06 * span if left else n + 0.06 * span
        axes.plot([place, place, end], [0, level, level], color="#5b6472", linewidth=0.9)
        axes.plot(place, 0, marker="o", markersize=4, color=INK)
        text = f"{name}  {place:.2f}" if left else f"{place:.2f}  {name}"
        shift = -0.02 * span if left else 0.02 * span
        axes.text(end + shift, level, text, ha="right" if left else "left", va="center", fontsize=9)
    axes.set_title(title, loc="left")
    figure.text(0.015, 0.0, _wrapped(ranking.caption), fontsize=7.5, va="bottom", color="#5b6472")
    return figure


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 118))
