"""Step functions of the cost: one per run, and their median and band over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moofusion.comparison.objectives import checked_values
from moofusion.comparison.quality import Backend
from moofusion.errors import ConfigurationError

__all__ = ["Band", "Curve", "align", "band", "checkpoints"]

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Curve:
    """A step function of the cost: `y[i]` holds from `x[i]` up to `x[i + 1]`.

    Attributes:
        x: Cost so far at each checkpoint, shape ``(C,)``, never decreasing.
        y: Hypervolume of the non-dominated points so far, shape ``(C,)``, never decreasing.
        evaluations: Number of evaluations so far, shape ``(C,)``; the last is the run's length.
        axis: What `x` counts.
        backend: How all hypervolumes of the curve were computed.
        reference: Reference point of the hypervolume, one value per objective.
    """

    x: Array
    y: Array
    evaluations: Indices
    axis: str
    backend: Backend
    reference: tuple[float, ...]

    def at(self, x: ArrayLike) -> Array:
        """Values at given costs, shape of `x`.

        Zero before the first evaluation. After the end of the run its last value is held: that is
        what the run had found, not what it would have found with more.

        Args:
            x: Costs on this curve's axis.
        """
        steps = np.searchsorted(self.x, np.asarray(x, float), side="right")
        return np.asarray(np.r_[0.0, self.y][steps])

    def over(self, cost: ArrayLike, axis: str) -> Curve:
        """The same curve against another cost, without computing any hypervolume again.

        Args:
            cost: What each evaluation of the run cost, shape ``(N,)``, >= 0: cost units, seconds.
            axis: What it counts, for example ``"cost units"`` or ``"seconds"``.

        Raises:
            ConfigurationError: Not one finite number >= 0 per evaluation.

        Example:
            >>> from moofusion.comparison.anytime import anytime_hypervolume
            >>> (curve,) = anytime_hypervolume([[[0.5, 0.5], [0.0, 0.0]]], reference=1.0)
            >>> curve.over([3, 3], "cost units").x
            array([3., 6.])
        """
        costs = checked_values(cost, what=f"costs ({axis}) of the evaluations")
        n = int(self.evaluations[-1])
        if len(costs) != n or (costs < 0).any():
            raise ConfigurationError(
                f"costs ({axis}) must be {n} numbers >= 0, one per evaluation, got {len(costs)}, "
                f"the smallest {costs.min():g}"
            )
        x = np.cumsum(costs)[self.evaluations - 1]
        return replace(self, x=x, axis=axis)


def checkpoints(n: int, limit: int = 200) -> Indices:
    """Evaluation counts at which a curve is computed.

    All of them up to `limit`; beyond, the union of a geometric and an even spacing, so that the
    steep beginning is kept on a linear and on a logarithmic axis.

    Args:
        n: Length of the run.
        limit: Largest number of checkpoints, at least 2.

    Returns:
        Increasing counts from 1 to `n`, at most `limit`.

    Example:
        >>> checkpoints(1000, limit=8)
        array([   1,    6,   32,  178,  251,  500,  750, 1000])
    """
    if n < 1 or limit < 2:
        raise ConfigurationError(
            f"a curve needs at least one evaluation and two checkpoints, got {n} and {limit}"
        )
    if n <= limit:
        return np.arange(1, n + 1)
    # Both spacings hold the two ends.
    spaced = [np.geomspace(1, n, limit // 2 + 1), np.linspace(1, n, limit - limit // 2 + 1)]
    return np.unique(np.concatenate(spaced).round().astype(np.intp))


@dataclass(frozen=True)
class Band:
    """Median and interquartile band of several runs.

    Attributes:
        x: Costs, shape ``(C,)``.
        median: Median over the runs, shape ``(C,)``.
        lower: First quartile.
        upper: Third quartile.
        n_runs: Number of runs.
        running: Number of runs that had not ended at each cost, shape ``(C,)``; where it is less
            than `n_runs`, the values of ended runs are held.
        axis: What `x` counts.
    """

    x: Array
    median: Array
    lower: Array
    upper: Array
    n_runs: int
    running: Indices
    axis: str


def align(
    curves: Sequence[Curve], *, x: ArrayLike | None = None, limit: int = 200
) -> tuple[Array, Array]:
    """Values of several curves at common costs.

    Steps are held from the last checkpoint; before its first evaluation a run has 0; after its
    end its last value is held and nothing is extrapolated.

    Args:
        curves: Curves on one axis, computed with one backend and one reference point.
        x: Costs, shape ``(C,)``; None: all costs at which a curve has a checkpoint, thinned to
            `limit`.
        limit: Largest number of costs when they are chosen.

    Returns:
        Costs ``(C,)`` and values ``(S, C)``, one row per curve.

    Raises:
        ConfigurationError: No curve, or curves that cannot be compared.
    """
    if not curves:
        raise ConfigurationError("at least one curve is needed, got none")
    for what in ("axis", "backend", "reference"):
        kinds = {str(getattr(curve, what)) for curve in curves}
        if len(kinds) > 1:
            raise ConfigurationError(
                f"curves can be compared only with one {what}, got {', '.join(sorted(kinds))}"
            )
    if x is None:
        union = np.unique(np.concatenate([curve.x for curve in curves]))
        grid = union
        if len(union) > limit:
            grid = union[checkpoints(len(union), limit) - 1]
    else:
        grid = checked_values(x, what="costs")
    return grid, np.array([curve.at(grid) for curve in curves])


def band(curves: Sequence[Curve], *, x: ArrayLike | None = None, limit: int = 200) -> Band:
    """Median and interquartile band over runs at common costs (see :func:`align`).

    Args:
        curves: Curves of one algorithm on one problem, one per seed.
        x: Costs; None: chosen from the checkpoints.
        limit: Largest number of costs when they are chosen.

    Raises:
        ConfigurationError: No curve, or curves that cannot be compared.

    Example:
        >>> from moofusion.comparison.anytime import anytime_hypervolume
        >>> runs = [[[0.5, 0.5]], [[0.0, 0.5]], [[0.0, 0.0]]]
        >>> band(anytime_hypervolume(runs, reference=1.0)).median
        array([0.5])
    """
    grid, values = align(curves, x=x, limit=limit)
    lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
    ends = np.array([curve.x[-1] for curve in curves])
    running = (ends[:, None] >= grid).sum(axis=0)
    return Band(grid, median, lower, upper, len(curves), running, curves[0].axis)
