"""Coefficients along a front: which decision vectors make which compromise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moofusion.comparison.front import Front
from moofusion.comparison.report.scores import Section
from moofusion.comparison.report.style import headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["along_front", "plot_coefficients"]

Array = NDArray[np.float64]

_MOST_LABELS = 40
_MOST_ROWS = 120


def along_front(F: Array) -> NDArray[np.intp]:
    """An order in which neighbours on a front stand together.

    Two objectives: by the first. More: grouped by the objective in which a model is best, the
    best first.

    Args:
        F: Normalized objectives, shape ``(P, M)``.

    Example:
        >>> along_front(np.array([[1.0, 0.0], [0.0, 1.0], [0.4, 0.5]]))
        array([1, 2, 0])
        >>> along_front(np.array([[0.3, 0.6, 0.9], [0.9, 0.2, 0.8], [0.1, 0.9, 0.9]]))
        array([2, 0, 1])
    """
    if F.shape[1] <= 2:
        return np.lexsort(F.T[::-1])
    return np.lexsort((F.min(axis=1), F.argmin(axis=1)))


def plot_coefficients(section: Section, front: Front) -> Figure:
    """Rows: the models of a front, in order along it; columns: decision variables.

    A strip on the left shows what each model is good at. Searched parameters of the merge method
    are shown by where they stand between the ends of their range, which their label names. Models
    that are no merges (fine-tuned checkpoints) have no coefficients and are left out.

    Args:
        section: The problem.
        front: Its pooled front.
    """
    from matplotlib.figure import Figure

    F = front.normalized("search")
    order = along_front(F)
    order = order[np.isfinite(front.X[order]).all(axis=1)]
    total = len(order)
    if total > _MOST_ROWS:
        order = order[np.linspace(0, total - 1, _MOST_ROWS).round().astype(np.intp)]
    X, F = front.X[order], F[order]
    labels = list(front.variables)
    for name, known in section.problem.searched.items():
        j = labels.index(name)
        drawn = np.array([known.variable(known.value(x)) for x in X[:, j]])
        X[:, j] = (drawn - known.xl) / (known.xu - known.xl)
        labels[j] = f"{name} ({known})"
    M, n_var = F.shape[1], X.shape[1]
    width = float(np.clip(0.42 * n_var, 2.4, 9.0))
    strip = 0.34 * M + 0.3
    figure = Figure(figsize=(width + strip + 2.3, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[strip, width])
    good = left.imshow(1 - F, aspect="auto", cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    _columns(left, [f"{task}" for task in front.tasks])
    along = f"best {front.tasks[0]} first" if M <= 2 else "by what they do best"
    count = f"{total}" if total == len(X) else f"{len(X)} of {total}"
    left.set_ylabel(f"{count} models of the pooled front,\n{along}")
    low, high = min(float(X.min()), 0.0), float(X.max())
    colors = {"cmap": "viridis", "vmin": low, "vmax": high}
    if low < 0:
        far = max(-low, high)
        colors = {"cmap": "RdBu_r", "vmin": -far, "vmax": far}
    image = right.imshow(X, aspect="auto", interpolation="nearest", **colors)
    _columns(right, labels)
    left.set_title("objectives")
    right.set_title("decision variables")
    headline(figure, section.title, "coefficients along the front")
    for picture, label in ((image, "value"), (good, "1: best anchor, 0: worst")):
        bar = figure.colorbar(picture, ax=[left, right], shrink=0.8, aspect=28, pad=0.02)
        bar.set_label(label)
        bar.outline.set_visible(False)
    return figure


def _columns(axes: Axes, names: list[str]) -> None:
    step = -(-len(names) // _MOST_LABELS)
    ticks = range(0, len(names), step)
    slanted = max(map(len, names)) > 3
    axes.set_xticks(
        list(ticks),
        [names[i] for i in ticks],
        rotation=45 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
        fontsize=8.5 if step == 1 else 7,
    )
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
