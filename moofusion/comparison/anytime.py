"""Anytime curves: the hypervolume of everything found so far, after each evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from moofusion.comparison.curves import Curve, checkpoints
from moofusion.comparison.objectives import checked_sets
from moofusion.comparison.quality import (
    REFERENCE,
    Backend,
    hypervolume_backend,
    reference_point,
    volume_within,
)
from moofusion.errors import ConfigurationError

__all__ = ["anytime_hypervolume"]

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

_SLACK = 0.25


def anytime_hypervolume(
    runs: Sequence[ArrayLike],
    *,
    usable: Sequence[ArrayLike] | None = None,
    reference: ArrayLike = REFERENCE,
    backend: Backend | None = None,
    limit: int = 200,
) -> tuple[Curve, ...]:
    """Hypervolume of the non-dominated points so far, after each evaluation of several runs.

    Only evaluations that enter the archive cause work: between two checkpoints without one the
    value is kept. Which do is found in one sweep per run: an evaluation enters if it is
    non-dominated when its index is taken as one more objective. Nothing but the choice of
    checkpoints is approximate where the backend is exact, and it draws steps late, never early.

    Args:
        runs: Normalized objectives of each run in the order of evaluation, shapes ``(N_i, M)``.
        usable: Masks of shape ``(N_i,)``: evaluations that failed or violate a constraint are
            False; they cost, but their objectives, whatever they are, count for nothing.
        reference: Reference point, one number or M of them.
        backend: Hypervolume backend; None: what the largest archive of all runs needs, so that
            curves can be compared.
        limit: Largest number of checkpoints of a run (see :func:`checkpoints`).

    Returns:
        One curve per run, against evaluations. The last value of an exact curve equals
        :func:`~moofusion.comparison.quality.hypervolume` of the whole run to the last digit.

    Raises:
        ConfigurationError: No run, a run without evaluations, NaN or infinite values, or shapes
            that do not fit.

    Example:
        >>> runs = [[[0.5, 0.5], [0.75, 0.75], [0.0, 0.5]]]
        >>> anytime_hypervolume(runs, reference=1.0)[0].y
        array([0.25, 0.25, 0.5 ])
    """
    checked, masks = _counted(runs, usable)
    for i, F in enumerate(checked, start=1):
        if not len(F):
            raise ConfigurationError(f"run {i} holds no evaluation and has no curve")
    n_obj = checked[0].shape[1]
    ref = reference_point(reference, n_obj=n_obj)
    histories = [
        _History(F, mask & (F < ref).all(axis=1), checkpoints(len(F), limit))
        for F, mask in zip(checked, masks, strict=True)
    ]
    if backend is None:
        largest = 0
        if hypervolume_backend(n_obj, 10**9, purpose="curve") != "exact":
            largest = max(history.largest() for history in histories)
        backend = hypervolume_backend(n_obj, largest, purpose="curve")
    point = tuple(ref.tolist())
    curves = []
    for history in histories:
        y = history.volumes(ref, backend)
        x = history.counts.astype(float)
        curves.append(Curve(x, y, history.counts, "evaluations", backend, point))
    return tuple(curves)


class _History:
    """The archives of one run at its checkpoints.

    Args:
        F: Objectives, shape ``(N, M)``.
        counted: Evaluations that count, shape ``(N,)``.
        counts: Checkpoints.
    """

    def __init__(self, F: Array, counted: NDArray[np.bool_], counts: Indices) -> None:
        self.counts = counts
        index = np.flatnonzero(counted)
        if len(index):
            # Evaluation i enters unless an earlier one is as good in everything, that is, unless
            # it is dominated in the objectives (F, i). Later ones are worse in the last.
            index = index[moocore.is_nondominated(np.column_stack([F[index], index]))]
        points = F[index]
        order = np.lexsort(points.T[::-1])
        self._points, self._index = points[order], index[order]

    def archives(self, slack: float = 0.0) -> Iterator[tuple[int, Indices]]:
        """Number of the checkpoint and rows of the archive, wherever it has changed.

        Args:
            slack: Share of points that may have been dominated since they entered: they change no
                volume, and looking for them at every checkpoint takes as long as the volume does.
                The last archive has none.
        """
        alive = np.zeros(len(self._index), bool)
        entered = np.searchsorted(np.sort(self._index), self.counts)
        before = allowed = 0
        for i, count in enumerate(self.counts):
            if not entered[i] or (i and entered[i] == entered[i - 1]):
                continue
            alive |= (self._index >= before) & (self._index < count)
            before = count
            rows = np.flatnonzero(alive)
            if len(rows) > allowed or entered[i] == entered[-1]:
                keep = moocore.is_nondominated(self._points[rows])
                alive[rows[~keep]] = False
                rows = rows[keep]
                allowed = int((1 + slack) * len(rows))
            yield i, rows

    def largest(self) -> int:
        """Size of the largest archive."""
        return max((len(rows) for _, rows in self.archives()), default=0)

    def volumes(self, ref: Array, backend: Backend) -> Array:
        """Hypervolume at each checkpoint."""
        values = np.zeros(len(self.counts))
        for i, rows in self.archives(_SLACK if backend == "exact" else 0.0):
            values[i] = volume_within(self._points[rows], ref, backend, "curve")
        # Kept where nothing entered; a sum of many terms may also fall by a rounding error.
        return np.maximum.accumulate(values)


def _counted(
    runs: Sequence[ArrayLike], usable: Sequence[ArrayLike] | None
) -> tuple[list[Array], list[NDArray[np.bool_]]]:
    """Checked objectives and masks; rows that do not count are zero."""
    if usable is None:
        checked = checked_sets(runs, what="run")
        return checked, [np.ones(len(F), bool) for F in checked]
    tables, masks = [np.asarray(F) for F in runs], [np.asarray(mask) for mask in usable]
    shapes, expected = [mask.shape for mask in masks], [F.shape[:1] for F in tables]
    if shapes != expected or any(mask.dtype != bool for mask in masks):
        raise ConfigurationError(
            f"'usable' must hold one boolean mask per run, of shapes {expected}, got {shapes}"
        )
    filled = [
        np.where(mask.reshape(-1, *[1] * (F.ndim - 1)), F, 0.0)
        for F, mask in zip(tables, masks, strict=True)
    ]
    return checked_sets(filled, what="run"), masks
