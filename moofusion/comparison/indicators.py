"""Indicators of a set against a pooled front: relative hypervolume, IGD+, epsilon, extent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from moofusion.comparison.objectives import checked_objectives, checked_sets, lexsorted
from moofusion.comparison.quality import (
    REFERENCE,
    Backend,
    Purpose,
    hypervolume,
    hypervolume_backend,
    nondominated,
    reference_point,
)
from moofusion.errors import ConfigurationError

__all__ = [
    "SetIndicators",
    "additive_epsilon",
    "extents",
    "igd_plus",
    "pooled_front",
    "relative_hypervolume",
    "set_indicators",
]

Array = NDArray[np.float64]


def pooled_front(sets: Sequence[ArrayLike]) -> Array:
    """Non-dominated points of the union of several sets (minimization).

    It is the best that is known, not the true front: an indicator against it is relative to the
    sets that were pooled, and must be computed anew when a set is added.

    Args:
        sets: Objectives of each set, shapes ``(P_i, M)``; single sets may be empty.

    Returns:
        Array of shape ``(R, M)``, in lexicographic order, without duplicates.

    Raises:
        ConfigurationError: No set, different numbers of objectives, NaN or infinite values.

    Example:
        >>> pooled_front([[[0, 1], [1, 1]], [[1, 0]]])
        array([[0., 1.],
               [1., 0.]])
    """
    union = np.vstack(checked_sets(sets))
    return lexsorted(union[nondominated(union)])


def relative_hypervolume(
    F: ArrayLike,
    pooled: ArrayLike,
    *,
    reference: ArrayLike = REFERENCE,
    backend: Backend | None = None,
) -> float:
    """Hypervolume divided by that of the pooled front (more is better, 1 is the pooled front).

    Args:
        F: Normalized objectives, shape ``(P, M)``; may be empty.
        pooled: Pooled front, shape ``(R, M)`` (see :func:`pooled_front`).
        reference: Reference point, one number or M of them.
        backend: How to compute both; None: what the larger of the two sets needs.

    Returns:
        Between 0 and 1 when `F` is part of the pool; NaN when no point of the pooled front lies
        within the reference, so that there is nothing to divide by.

    Raises:
        ConfigurationError: NaN or infinite values, other shapes, or an empty pooled front.

    Example:
        >>> relative_hypervolume([[0.5, 0.5]], [[0, 0.5], [0.5, 0]], reference=1.0)
        0.333...
    """
    F, pooled = _pair(F, pooled)
    if backend is None:
        backend = _common_backend([F, pooled], reference, "final")
    whole = hypervolume(pooled, reference=reference, backend=backend)
    part = hypervolume(F, reference=reference, backend=backend)
    return part / whole if whole > 0 else float("nan")


def igd_plus(F: ArrayLike, pooled: ArrayLike) -> float:
    """Mean distance from the pooled front to what the set dominates (less is better).

    ``mean over z of min over a of || max(a - z, 0) ||``: weakly Pareto-compliant, unlike IGD.
    O(P R M).

    Args:
        F: Normalized objectives, shape ``(P, M)``; may be empty.
        pooled: Pooled front, shape ``(R, M)`` (see :func:`pooled_front`).

    Returns:
        Distance in normalized objectives, >= 0; infinite for an empty set.

    Raises:
        ConfigurationError: NaN or infinite values, other shapes, or an empty pooled front.

    Source: Ishibuchi, Masuda, Tanigaki, Nojima 2015, Modified distance calculation in generational
    distance and inverted generational distance, eqs. 14-18; computed by moocore.

    Example:
        >>> igd_plus([[0.5, 0.5]], [[0, 0.5], [0.5, 0]])
        0.5
    """
    F, pooled = _pair(F, pooled)
    return float(moocore.igd_plus(F, ref=pooled)) if len(F) else float("inf")


def additive_epsilon(F: ArrayLike, pooled: ArrayLike) -> float:
    """Smallest shift of the set that makes it weakly dominate the pooled front (less is better).

    ``max over z of min over a of max over j of (a_j - z_j)``. O(P R M).

    Args:
        F: Normalized objectives, shape ``(P, M)``; may be empty.
        pooled: Pooled front, shape ``(R, M)`` (see :func:`pooled_front`).

    Returns:
        Shift in normalized objectives; 0 for the pooled front itself, negative for a set that is
        better than it everywhere, infinite for an empty set.

    Raises:
        ConfigurationError: NaN or infinite values, other shapes, or an empty pooled front.

    Source: Zitzler, Thiele, Laumanns, Fonseca, Grunert da Fonseca 2003, Performance assessment of
    multiobjective optimizers, Section IV; computed by moocore.

    Example:
        >>> additive_epsilon([[0.25, 0.5]], [[0, 0.5], [0.5, 0]])
        0.5
    """
    F, pooled = _pair(F, pooled)
    return float(moocore.epsilon_additive(F, ref=pooled)) if len(F) else float("inf")


def extents(F: ArrayLike) -> Array:
    """Range that the non-dominated points cover in each objective (more is a wider choice).

    Args:
        F: Normalized objectives, shape ``(P, M)``; may be empty.

    Returns:
        Largest minus smallest value, shape ``(M,)``, in normalized objectives; zero for an empty
        set.

    Raises:
        ConfigurationError: NaN or infinite values, or another shape.

    Example:
        >>> extents([[0, 0.75], [0.5, 0], [9, 9]])
        array([0.5 , 0.75])
    """
    F = checked_objectives(F)
    front = F[nondominated(F)]
    return np.ptp(front, axis=0) if len(front) else np.zeros(F.shape[1])


@dataclass(frozen=True)
class SetIndicators:
    """All indicators of one set.

    Attributes:
        hypervolume: Normalized hypervolume; more is better.
        relative_hypervolume: The same divided by that of the pooled front; more is better.
        igd_plus: IGD+ to the pooled front; less is better.
        epsilon: Additive epsilon to the pooled front; less is better.
        n_points: Number of non-dominated points, equal ones counted once.
        extents: Range covered in each objective, one per objective.
        backend: How both hypervolumes were computed.
        reference: Reference point of both, one value per objective.
    """

    hypervolume: float
    relative_hypervolume: float
    igd_plus: float
    epsilon: float
    n_points: int
    extents: tuple[float, ...]
    backend: Backend
    reference: tuple[float, ...]


def set_indicators(
    sets: Sequence[ArrayLike],
    *,
    pooled: ArrayLike | None = None,
    reference: ArrayLike = REFERENCE,
    backend: Backend | None = None,
) -> tuple[SetIndicators, ...]:
    """All indicators of several sets, against one front and with one hypervolume backend.

    Args:
        sets: Normalized objectives of each set, shapes ``(P_i, M)``; single sets may be empty.
        pooled: Front to compare with, shape ``(R, M)``; None: the pooled front of `sets`.
        reference: Reference point, one number or M of them.
        backend: Hypervolume backend of all sets; None: what the largest needs.

    Returns:
        The indicators, in the order of `sets`.

    Raises:
        ConfigurationError: NaN or infinite values, other shapes, nothing to compare with.

    Example:
        >>> a, b = set_indicators([[[0, 0.5], [0.5, 0]], [[0.5, 0.5]]], reference=1.0)
        >>> a.hypervolume, a.relative_hypervolume, a.n_points, b.igd_plus
        (0.75, 1.0, 2, 0.5)
    """
    checked = checked_sets(sets)
    front = _pair(checked[0], pooled_front(checked) if pooled is None else pooled)[1]
    if backend is None:
        backend = _common_backend([*checked, front], reference, "final")
    whole = hypervolume(front, reference=reference, backend=backend)
    ref = tuple(reference_point(reference, n_obj=front.shape[1]).tolist())
    found = []
    for F in checked:
        volume = hypervolume(F, reference=reference, backend=backend)
        found.append(
            SetIndicators(
                hypervolume=volume,
                relative_hypervolume=volume / whole if whole > 0 else float("nan"),
                igd_plus=igd_plus(F, front),
                epsilon=additive_epsilon(F, front),
                n_points=int(nondominated(F).sum()),
                extents=tuple(extents(F).tolist()),
                backend=backend,
                reference=ref,
            )
        )
    return tuple(found)


def _pair(F: ArrayLike, pooled: ArrayLike) -> tuple[Array, Array]:
    front = checked_objectives(pooled, what="the pooled front's objectives")
    if not len(front):
        raise ConfigurationError("the pooled front is empty; there is nothing to compare with")
    return checked_objectives(F, n_obj=front.shape[1]), front


def _common_backend(sets: Sequence[Array], reference: ArrayLike, purpose: Purpose) -> Backend:
    """What the set with the most non-dominated points within the reference needs."""
    n_obj = sets[0].shape[1]
    ref = reference_point(reference, n_obj=n_obj)
    largest = 0
    if hypervolume_backend(n_obj, 10**9, purpose=purpose) != "exact":
        largest = max(int(nondominated(F[(F < ref).all(axis=1)]).sum()) for F in sets)
    return hypervolume_backend(n_obj, largest, purpose=purpose)
