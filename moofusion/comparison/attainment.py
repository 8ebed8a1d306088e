"""Attainment surfaces: what a given share of the runs reached, and where two algorithms differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from moofusion.comparison.objectives import checked_objectives, checked_sets
from moofusion.errors import ConfigurationError

__all__ = [
    "AttainmentDifference",
    "AttainmentSurface",
    "attainment_difference",
    "attainment_surfaces",
    "split_by_set",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class AttainmentSurface:
    """Lower boundary of the region that a share of the runs attained.

    Attributes:
        level: Share of the runs, in (0, 1]; 0.5 is the median surface.
        n_needed: Number of runs that this means.
        n_runs: Number of runs.
        points: Its corners, shape ``(Q, M)``, in lexicographic order: exactly what these weakly
            dominate was weakly dominated by at least `n_needed` runs.
    """

    level: float
    n_needed: int
    n_runs: int
    points: Array


def attainment_surfaces(
    sets: Sequence[ArrayLike], *, levels: Sequence[float] = (0.25, 0.5, 0.75)
) -> tuple[AttainmentSurface, ...]:
    """Empirical attainment surfaces of repeated runs, for two or three objectives (minimization).

    O(P log P + S P) for two objectives and O(S^2 P log P) for three, with S runs of P points in
    all.

    Args:
        sets: Objectives of each run, shapes ``(P_i, M)``, none empty.
        levels: Shares of the runs. 0.25 is what a quarter of the runs reached (the optimistic
            quartile), 0.75 what three quarters reached.

    Returns:
        One surface per level, in the order given.

    Raises:
        ConfigurationError: Not two or three objectives, an empty run, a level outside (0, 1], NaN
            or infinite values.

    Source: Grunert da Fonseca, Fonseca, Hall 2001, Inferential performance assessment of
    stochastic optimisers and the attainment function; algorithm of Fonseca, Guerreiro,
    Lopez-Ibanez, Paquete 2011, computed by moocore.

    Example:
        >>> runs = [[[0, 2], [2, 0]], [[1, 1]], [[0, 2], [1, 1]]]
        >>> attainment_surfaces(runs, levels=[0.5])[0].points
        array([[0., 2.],
               [1., 1.]])
    """
    runs = _checked_runs(sets, objectives=(2, 3), what="attainment surfaces")
    points, labels = _stacked(runs)
    n = len(runs)
    needed = [_runs_needed(level, n) for level in levels]
    # moocore counts runs by percentage: ask between two counts, away from rounding.
    shares = {k: 100 * (k - 0.5) / n for k in needed}
    found = moocore.eaf(points, labels, percentiles=sorted(set(shares.values())))
    surfaces = []
    for level, k in zip(levels, needed, strict=True):
        rows = found[found[:, -1] == shares[k], :-1]
        rows = np.array(rows[np.lexsort(rows.T[::-1])])
        surfaces.append(AttainmentSurface(float(level), k, n, rows))
    return tuple(surfaces)


@dataclass(frozen=True)
class AttainmentDifference:
    """Where the runs of one algorithm attained more often than those of another.

    Attributes:
        rectangles: Regions of equal difference, shape ``(R, 4)``: lower corner (two values), upper
            corner (two values, may be infinite); half-open, disjoint. Elsewhere it is zero.
        differences: Share of the first algorithm's runs minus share of the second's, shape
            ``(R,)``, in [-1, 1]; positive where the first is better.
        n_runs: Number of runs of each algorithm.
    """

    rectangles: Array
    differences: Array
    n_runs: int

    def at(self, point: ArrayLike) -> float:
        """The difference at one point, shape ``(2,)``."""
        p = checked_objectives(np.asarray(point)[None], n_obj=2)[0]
        lower, upper = self.rectangles[:, :2], self.rectangles[:, 2:]
        hit = ((lower <= p) & (p < upper)).all(axis=1)
        return float(self.differences[hit][0]) if hit.any() else 0.0


def attainment_difference(
    first: Sequence[ArrayLike], second: Sequence[ArrayLike]
) -> AttainmentDifference:
    """Difference of the attainment functions of two algorithms, for two objectives (minimization).

    Args:
        first: Objectives of each run of the first algorithm, shapes ``(P_i, 2)``, none empty.
        second: The same of the second algorithm, with as many runs.

    Raises:
        ConfigurationError: Not two objectives, different numbers of runs, an empty run, NaN or
            infinite values.

    Source: Lopez-Ibanez, Paquete, Stuetzle 2010, Exploratory analysis of stochastic local search
    algorithms in biobjective optimization; computed by moocore.

    Example:
        >>> difference = attainment_difference([[[0, 1]], [[0, 1]]], [[[1, 1]], [[0, 1]]])
        >>> difference.at([0.5, 1.5]), difference.at([2.0, 2.0])
        (0.5, 0.0)
    """
    sides = [
        _checked_runs(sets, objectives=(2,), what="attainment differences")
        for sets in (first, second)
    ]
    n = len(sides[0])
    if len(sides[1]) != n:
        raise ConfigurationError(
            "an attainment difference needs the same number of runs of both algorithms, got "
            f"{n} and {len(sides[1])}; use the seeds that both have"
        )
    stacked = [_stacked(runs) for runs in sides]
    functions = [moocore.eaf(points, labels) for points, labels in stacked]
    if np.array_equal(*functions):
        # moocore fails when there is no region to report.
        return AttainmentDifference(np.empty((0, 4)), np.empty(0), n)
    found = moocore.eafdiff(*(np.column_stack(side) for side in stacked), rectangles=True)
    found = found[found[:, 4] != 0]
    found = found[np.lexsort(found.T[::-1])]
    return AttainmentDifference(np.array(found[:, :4]), found[:, 4] / n, n)


def split_by_set(F: ArrayLike, labels: ArrayLike) -> tuple[Array, ...]:
    """The rows of a table, one table per set.

    Args:
        F: Objectives, shape ``(P, M)``, the sets in any order, even interleaved.
        labels: Set of each row, shape ``(P,)``: for example its seed.

    Returns:
        One table per label, in the order of the sorted labels; rows keep their order.

    Raises:
        ConfigurationError: Not one label per row, NaN or infinite values.

    Example:
        >>> split_by_set([[0, 2], [1, 1], [2, 0]], [7, 3, 7])
        (array([[1., 1.]]), array([[0., 2.], [2., 0.]]))
    """
    F = checked_objectives(F)
    marks = np.asarray(labels)
    if marks.shape != (len(F),):
        raise ConfigurationError(f"{len(F)} rows need {len(F)} set labels, got {marks.shape}")
    return tuple(F[marks == label] for label in np.unique(marks))


def _checked_runs(
    sets: Sequence[ArrayLike], *, objectives: tuple[int, ...], what: str
) -> list[Array]:
    runs = checked_sets(sets, what="run")
    n_obj = runs[0].shape[1]
    if n_obj not in objectives:
        raise ConfigurationError(
            f"{what} exist for {' and '.join(map(str, objectives))} objectives, got {n_obj}; "
            "choose a pair of objectives, or compare anytime hypervolume curves"
        )
    empty = [i for i, F in enumerate(runs, start=1) if not len(F)]
    if empty:
        raise ConfigurationError(
            f"{what} need at least one point per run; empty: run {', '.join(map(str, empty))}"
        )
    return runs


def _stacked(runs: Sequence[Array]) -> tuple[Array, NDArray[np.intp]]:
    """All points with their run's number, grouped by run: moocore is silently wrong otherwise."""
    return np.vstack(runs), np.repeat(np.arange(len(runs)), [len(F) for F in runs])


def _runs_needed(level: float, n: int) -> int:
    if not 0 < level <= 1:
        raise ConfigurationError(f"attainment levels are shares of the runs in (0, 1], got {level}")
    # A share such as 0.7 of 10 runs means 7, whatever 0.7 * 10 rounds to.
    return max(1, int(np.ceil(round(level * n, 9))))
