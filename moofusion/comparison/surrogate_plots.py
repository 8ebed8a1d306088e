"""Pictures of surrogates: what they say of coefficients, and how far that can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moofusion.comparison.report.style import INK, axis_label, headline, plain, shown, styled
from moofusion.errors import ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moofusion.algorithms.map import SurrogateAlgorithm
    from moofusion.surrogates import MergeSurrogate, Target

__all__ = ["plot_calibration", "plot_contours", "plot_predicted"]

Array = NDArray[np.float64]
Source: TypeAlias = "SurrogateAlgorithm | MergeSurrogate"

_DESIGN = "#f4f5f7"
_VERIFIED = "#d55e00"
_POINT = "#0072b2"
_RING = "#f781bf"
_WORSE = "#d55e00"
_BETTER = "#009e73"
_FRONT = "real front"
_COLUMNS = 4
_GRID = 81


def plot_contours(
    source: Source,
    x: str,
    y: str,
    *,
    at: ArrayLike | None = None,
    predicted: ArrayLike | None = None,
) -> Figure:
    """What the surrogates say of two coefficients, a panel for each objective.

    Metrics are drawn as they are measured. Pale is what lies outside the sampled support, where the
    surrogate extrapolates. Evaluated points are projected onto the two coefficients: all of
    them are drawn, whatever their other coefficients. Rings mark the real front, which is what is
    non-dominated among everything evaluated.

    Args:
        source: A MAP algorithm after its run, or fitted surrogates. The algorithm tells the design
            and the verified points of predicted fronts apart. Of a :class:`NestedMAP` the
            surrogates of its last merge are drawn, in variables ``x1`` and ``x2`` of their own.
        x: Name of the coefficient along the horizontal axis, as in ``problem.space.names``;
            ``x1``, ``x2``, ... where the surrogates know no space.
        y: Name of the one along the vertical axis.
        at: Decision vector ``(n_var,)`` at which the others are held; by default the sampled point
            whose worst objective, scaled to the predicted range, is predicted to be best.
        predicted: Decision vectors ``(N, n_var)`` of a predicted front that were not evaluated,
            such as the `X` of an amortized search.

    Raises:
        UnknownNameError: There is no coefficient of that name.
        ConfigurationError: `x` and `y` are the same, or shapes do not fit.

    Example:
        >>> from moofusion.surrogates import MergeSurrogate, Target
        >>> from moofusion.tasks.base import Metric
        >>> X = np.random.default_rng(0).uniform(size=(20, 2))
        >>> surrogate = MergeSurrogate.fit(X, X**2, [Target.of(n, Metric("y")) for n in "ab"])
        >>> [axes.get_title() for axes in plot_contours(surrogate, "x1", "x2").axes[:2]]
        ['a y', 'b y']
    """
    surrogate, groups = _points(source)
    names = _names(surrogate)
    for name in (x, y):
        if name not in names:
            raise UnknownNameError("coefficient", name, names)
    if x == y:
        raise ConfigurationError(f"x and y are both {x!r}; name two different coefficients")
    pair = [names.index(x), names.index(y)]
    held = _held(surrogate) if at is None else _rows(at, surrogate.n_var, "at", one=True)[0]
    if predicted is not None:
        groups["predicted"] = _rows(predicted, surrogate.n_var, "predicted")
    h, v, grid = _grid(surrogate, pair, held, groups)
    values = shown(surrogate.metrics(grid), [t.metric for t in surrogate.targets])
    outside = (surrogate.support.violation(grid) > 0).reshape(h.shape)
    with styled():
        figure, panels = _panels(len(surrogate.targets), 3.9, 3.5)
        for j, (axes, target) in enumerate(zip(panels, surrogate.targets, strict=True)):
            filled = axes.contourf(h, v, values[:, j].reshape(h.shape), levels=10, cmap="viridis")
            figure.colorbar(filled, ax=axes)
            if outside.any():
                axes.contourf(
                    h, v, outside.astype(float), levels=[0.5, 1.5], colors="white", alpha=0.5
                )
            _draw_groups(axes, groups, pair)
            plain(axes)
            axes.grid(visible=False)
            axes.set_xlim(h.min(), h.max())
            axes.set_ylim(v.min(), v.max())
            axes.set_title(axis_label(target.name, target.metric))
            axes.set_xlabel(x)
            axes.set_ylabel(y)
        _legend_below(figure, panels[0])
        others = [f"{n} = {held[i]:.3g}" for i, n in enumerate(names) if i not in pair]
        what = f"{surrogate.kind} surrogate of {x} and {y}"
        what += f", with {_listed(others)}" if others else ""
        pale = " Pale: outside of what was sampled." if outside.any() else ""
        projected = "Points are projected onto this plane." if others else ""
        headline(figure, what, (projected + pale).strip())
    return figure


def plot_predicted(algorithm: SurrogateAlgorithm) -> Figure:
    """Predicted against real: the verified points of predicted fronts, a panel for each objective.

    On the diagonal the prediction was right. A line joins each point to it: green where the real
    merge was better than predicted, orange where it was worse. Above each panel stands the gap,
    real minus predicted objective (see :meth:`SurrogateAlgorithm.gap`), in percentage points where
    the metric is read in percent. Predictions are those made before the point was evaluated.

    Args:
        algorithm: A MAP algorithm after its run.

    Raises:
        ConfigurationError: It has verified no predicted point.

    Example:
        >>> from moofusion import MAP, get_problem
        >>> from pymoo.optimize import minimize
        >>> problem = get_problem("vision4", tasks=["animals", "objects"])
        >>> run = minimize(problem, MAP(n_samples=8, generations=5), ("n_eval", 10), seed=1)
        >>> len(plot_predicted(run.algorithm).axes)
        2
    """
    found = algorithm.predicted
    if not len(found.X):
        raise ConfigurationError(
            "no predicted point was verified; give the search more evaluations than its design"
        )
    real = algorithm.measured(found.X)
    with styled():
        figure, panels = _panels(len(algorithm.targets), 3.6, 3.7)
        for j, (axes, target) in enumerate(zip(panels, algorithm.targets, strict=True)):
            # Nested MAP predicts the objectives of the two that it merges only.
            known = np.isfinite(found.F[:, j])
            F = np.stack([found.F[known, j], real[known, j]], axis=1)
            gap, values = F[:, 1] - F[:, 0], _values(F, target)
            for sign, color, label in (
                (1, _WORSE, "worse than predicted"), (-1, _BETTER, "better than predicted"),
            ):  # fmt: skip
                rows = values[gap * sign > 0]
                axes.vlines(rows[:, 0], rows[:, 0], rows[:, 1], color=color, label=label, lw=1.4)
            _against(axes, values, "verified")
            label = axis_label(target.name, target.metric)
            axes.set_xlabel(f"predicted {label}")
            axes.set_ylabel("real")
            axes.set_title(_gap_text(gap, target), fontsize=9)
        _legend_below(figure, panels[0])
        headline(
            figure,
            f"Predicted against real: {len(found.X)} verified points",
            "Gap: real minus predicted objective; positive is worse than predicted.",
        )
    return figure


def plot_calibration(surrogate: MergeSurrogate) -> Figure:
    """Leave-one-out prediction against observation, a panel for each objective.

    Both are on the link scale, on which the surrogate is fitted and R^2 and RMSE are taken. The
    band is the noise floor: what the measurement noise alone makes of a perfect surrogate (one
    standard deviation); it is left out where the noise is not known.

    Args:
        surrogate: Fitted surrogates, for example ``algorithm.surrogate``.

    Raises:
        ConfigurationError: The surrogates have not been fitted to points, so nothing is left out.

    Example:
        >>> from moofusion.surrogates import MergeSurrogate, Target
        >>> from moofusion.tasks.base import Metric
        >>> X = np.random.default_rng(0).uniform(size=(20, 2))
        >>> surrogate = MergeSurrogate.fit(X, X**2, [Target.of(n, Metric("y")) for n in "ab"])
        >>> len(plot_calibration(surrogate).axes)
        2
    """
    with styled():
        figure, panels = _panels(len(surrogate.targets), 3.6, 3.8)
        for axes, target, model in zip(panels, surrogate.targets, surrogate.models, strict=True):
            loo = model.loo
            _against(axes, np.stack([loo.predicted, loo.observed], axis=1), "left out", loo.noise)
            floor = f"{loo.noise:.3f}" if np.isfinite(loo.noise) else "not known"
            axes.set_title(
                f"R² {loo.r2:.2f}   RMSE {loo.rmse:.3f}\nnoise floor {floor}", fontsize=9
            )
            scale = "" if target.link.name == "identity" else f", {target.link.name}"
            axes.set_xlabel(f"predicted {target.name} {target.metric.name}{scale}")
            axes.set_ylabel("observed")
        _legend_below(figure, panels[0])
        headline(
            figure,
            f"Calibration of the {surrogate.kind} surrogate: each point predicted from the others",
            "",
        )
    return figure


def _points(source: Source) -> tuple[MergeSurrogate, dict[str, Array]]:
    """Surrogates, and the groups of points to draw, by label."""
    from moofusion.algorithms.map import NestedMAP, SurrogateAlgorithm

    surrogate = source.surrogate if isinstance(source, SurrogateAlgorithm) else source
    if not isinstance(source, SurrogateAlgorithm) or isinstance(source, NestedMAP):
        return surrogate, {"sampled": surrogate.support.X}
    X = np.asarray(source.evaluated.get("X"), float)
    verified = source.predicted.X
    sent = {row.tobytes() for row in verified}
    design = X[[row.tobytes() not in sent for row in X]]
    front = np.asarray(source.opt.get("X"), float)
    return surrogate, {"design": design, "verified": verified, _FRONT: front}


def _names(surrogate: MergeSurrogate) -> Sequence[str]:
    if surrogate.space is not None:
        return tuple(surrogate.space.names)
    return tuple(f"x{i + 1}" for i in range(surrogate.n_var))


def _held(surrogate: MergeSurrogate) -> Array:
    """The sampled point whose worst objective is predicted to be best."""
    X = surrogate.support.X
    F = surrogate.predict(X)[0]
    low, high = F.min(axis=0), F.max(axis=0)
    return np.asarray(X[((F - low) / np.where(high > low, high - low, 1.0)).max(axis=1).argmin()])


def _rows(X: ArrayLike, n_var: int, what: str, *, one: bool = False) -> Array:
    rows = np.atleast_2d(np.asarray(X, float))
    if rows.ndim != 2 or rows.shape[1] != n_var or (one and len(rows) != 1):
        expected = f"({n_var},)" if one else f"(N, {n_var})"
        raise ConfigurationError(f"{what}: expected shape {expected}, got {np.shape(X)}")
    return rows


def _grid(
    surrogate: MergeSurrogate, pair: list[int], held: Array, groups: dict[str, Array]
) -> tuple[Array, Array, Array]:
    """Both coordinates of the grid, and its decision vectors: around everything that is drawn."""
    drawn = np.vstack(list(groups.values()))[:, pair]
    low, high = drawn.min(axis=0), drawn.max(axis=0)
    margin = 0.05 * np.where(high > low, high - low, 1.0)
    h, v = np.meshgrid(
        *(np.linspace(a, b, _GRID) for a, b in zip(low - margin, high + margin, strict=True))
    )
    grid = np.tile(held, (h.size, 1))
    grid[:, pair] = np.stack([h.ravel(), v.ravel()], axis=1)
    return h, v, grid


def _draw_groups(axes: Axes, groups: dict[str, Array], pair: list[int]) -> None:
    looks: dict[str, dict[str, Any]] = {
        "predicted": {"marker": "X", "c": "#f0e442", "s": 36, "edgecolors": INK, "linewidths": 0.8},
        "verified": {"marker": "o", "c": _VERIFIED, "s": 34, "edgecolors": "white"},
        _FRONT: {"marker": "o", "c": "none", "s": 90, "edgecolors": _RING, "linewidths": 1.6},
    }
    plainly = {"marker": "o", "c": _DESIGN, "s": 24, "edgecolors": INK}
    for i, (label, X) in enumerate(groups.items()):
        look = looks.get(label, plainly)
        axes.scatter(X[:, pair[0]], X[:, pair[1]], label=label, zorder=3 + i, **look)


def _against(axes: Axes, points: Array, label: str, noise: float = np.nan) -> None:
    """Points ``(P, 2)``, predicted and real, on equal axes with the diagonal and its band."""
    low, high = (points.min(), points.max()) if len(points) else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.5
    ends = np.array([low - margin, high + margin])
    if np.isfinite(noise):
        axes.fill_between(
            ends, ends - noise, ends + noise, color="#e3e8ef", lw=0, label="noise floor"
        )
    axes.plot(ends, ends, color=INK, lw=1, label="as predicted")
    axes.scatter(
        points[:, 0], points[:, 1], s=26, c=_POINT, edgecolors="white", label=label, zorder=3
    )
    plain(axes)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")


def _values(F: Array, target: Target) -> Array:
    """Objectives as the metric that people read."""
    metric = target.metric
    values = metric.best - F if metric.direction == "max" else F
    return shown(values[..., None], [metric])[..., 0]


def _gap_text(gap: Array, target: Target) -> str:
    if not len(gap):
        return "nothing predicted"
    gap = shown(gap[:, None], [target.metric])[:, 0]
    digits, unit = (1, " points") if target.metric.percent else (4, "")
    return (
        f"gap: mean {gap.mean():+.{digits}f}{unit}\n"
        f"mean absolute {np.abs(gap).mean():.{digits}f}, largest {gap.max():+.{digits}f}"
    )


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, at most four in a row; sizes in inches for each."""
    from moofusion.comparison.figure import ShownFigure

    rows = -(-count // _COLUMNS)
    columns = -(-count // rows)
    # Titles and legends need room also above a single panel.
    size = (max(width * columns, 5.2), height * rows + 1.0)
    figure = ShownFigure(figsize=size, layout="constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = len(labels) if figure.get_figwidth() > 6.5 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _listed(parts: list[str]) -> str:
    return ", ".join(parts[:6]) + (f" and {len(parts) - 6} more" if len(parts) > 6 else "")
