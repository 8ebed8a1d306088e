"""How figures look: colors, markers, fonts, and files that come out the same every time."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.tasks import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INK",
    "Look",
    "axis_label",
    "headline",
    "legend",
    "looks",
    "plain",
    "reference_looks",
    "save",
    "shown",
    "styled",
]

Array = NDArray[np.float64]

INK = "#1d2430"
_QUIET = "#5b6472"
_GRID = "#e6e8ec"

# Okabe and Ito 2008, without black and yellow: told apart with every kind of color vision.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#6b6b6b")
_DARK = ("#4ba6e3", "#ff8a45", "#2fc79a", "#e8a3c8", "#f2b43c", "#9ad6f7", "#b795db", "#ababab")
# matplotlib's marker and plotly's name of it.
_MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("^", "triangle-up"),
    ("D", "diamond"),
    ("v", "triangle-down"),
    ("p", "pentagon"),
    ("P", "cross"),
    ("h", "hexagon"),
    ("<", "triangle-left"),
    (">", "triangle-right"),
)
_DASHES = ("-", "--", "-.", ":")

_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # Ids of shapes in SVG files are drawn from this instead of from chance.
    "svg.hashsalt": "moofusion",
    "svg.fonttype": "path",
    "path.simplify": False,
}


@dataclass(frozen=True)
class Look:
    """How one algorithm or model is drawn.

    Attributes:
        color: Its color.
        marker: matplotlib's marker.
        symbol: plotly's name of the marker.
        dashes: Line style.
        dark: Its color on a dark page.
    """

    color: str
    marker: str
    symbol: str
    dashes: str = "-"
    dark: str = INK


def looks(algorithms: Sequence[str]) -> dict[str, Look]:
    """A color, a marker and a line style for each algorithm, by its place in the study."""
    found = {}
    for i, algorithm in enumerate(algorithms):
        marker, symbol = _MARKERS[i % len(_MARKERS)]
        dashes = _DASHES[i // len(_COLORS) % len(_DASHES)]
        place = i % len(_COLORS)
        found[algorithm] = Look(_COLORS[place], marker, symbol, dashes, _DARK[place])
    return found


def reference_looks(names: Sequence[str], experts: Sequence[str]) -> dict[str, Look]:
    """Base: a cross; experts: stars; controls: hollow shapes."""
    hollow = iter([*_MARKERS[1:5], *_MARKERS[7:], *_MARKERS] * 8)
    found = {}
    for name in names:
        if name == "base":
            found[name] = Look(INK, "X", "x")
        elif name in experts:
            found[name] = Look(INK, "*", "star")
        else:
            marker, symbol = next(hollow)
            found[name] = Look(INK, marker, f"{symbol}-open")
    return found


@contextmanager
def styled() -> Iterator[None]:
    """Everything drawn and saved within looks alike, whatever the user's own settings are."""
    from matplotlib import style

    # Unlike rc_context with all defaults, this leaves the user's backend alone.
    with style.context(["default", _SETTINGS]):
        yield


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG (150 dpi) and SVG; the same figure gives the same bytes.

    Args:
        figure: Drawn and saved within :func:`styled`.
        stem: Path without suffix.
    """
    png, svg = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg")
    figure.savefig(png, dpi=150, metadata={"Software": None})
    figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]


def headline(figure: Figure, title: str, what: str) -> None:
    """Title of the problem, and below it what the figure shows; at the left, wrapped."""
    width = int(figure.get_figwidth() * 11)
    lines = [line for text in (title, what) for line in textwrap.wrap(text, width)]
    figure.suptitle("\n".join(lines), x=0.012, ha="left", fontsize=10.5, linespacing=1.3)


def legend(figure: Figure, axes: Axes) -> None:
    """The entries of one panel, at the right of all."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")


def plain(axes: Axes) -> None:
    """Quiet grid, no box, few round ticks."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3)


def shown(values: Array, metrics: Sequence[Metric]) -> Array:
    """Metric values as people read them: percent where the metric is one."""
    scale = np.array([100.0 if metric.percent else 1.0 for metric in metrics])
    return np.asarray(values * scale)


def axis_label(task: str, metric: Metric) -> str:
    """Task, metric, unit, and which way is better where it is not upward."""
    unit = " (%)" if metric.percent else ""
    sense = "" if metric.direction == "max" else ", less is better"
    return f"{task} {metric.name}{unit}{sense}"
