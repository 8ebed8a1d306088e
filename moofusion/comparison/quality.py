"""How good a set of points is: pure functions of objective values."""

from __future__ import annotations

from typing import Literal

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from moofusion.errors import ConfigurationError

__all__ = ["REFERENCE", "hypervolume", "hypervolume_backend", "nondominated"]

Array = NDArray[np.float64]

#: Reference point, per normalized objective.
REFERENCE = 1.1

# Beyond this many points exact computation in six dimensions takes longer than it is worth.
_EXACT_POINTS_6 = 250
_SAMPLES = 1 << 18


def nondominated(F: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates (minimization).

    Args:
        F: Objectives, shape ``(P, M)``.

    Returns:
        Mask of shape ``(P,)``; of equal points the first is kept.

    Raises:
        ConfigurationError: `F` is not a table, or holds NaN or infinite values.

    Example:
        >>> nondominated([[0, 1], [1, 0], [1, 1]])
        array([ True,  True, False])
    """
    return np.asarray(moocore.is_nondominated(_checked(F)), bool)


def hypervolume_backend(n_obj: int, n_points: int) -> Literal["exact", "approximate"]:
    """How :func:`hypervolume` computes: exactly up to five objectives, or six and 250 points."""
    if n_obj <= 5 or (n_obj == 6 and n_points <= _EXACT_POINTS_6):
        return "exact"
    return "approximate"


def hypervolume(F: ArrayLike, *, reference: ArrayLike = REFERENCE) -> float:
    """Volume that a set dominates within the reference point (minimization; more is better).

    Points beyond the reference add nothing. Exact (moocore: Guerreiro and Fonseca 2017 and the
    dimension sweep of Fonseca et al. 2006) where :func:`hypervolume_backend` says so, else the
    deterministic approximation of Deng and Zhang (2019) with 2^18 samples.

    Args:
        F: Normalized objectives, shape ``(P, M)``; may be empty.
        reference: Reference point, ``(M,)`` or one number for all objectives.

    Raises:
        ConfigurationError: `F` or the reference holds NaN or infinite values, or shapes differ.

    Example:
        >>> hypervolume([[0.0, 0.5], [0.5, 0.0]], reference=1.0)
        0.75
    """
    F = _checked(F)
    if F.size == 0:
        return 0.0
    ref = np.asarray(reference, float)
    if ref.ndim > 1 or (ref.ndim == 1 and len(ref) != F.shape[1]) or not np.isfinite(ref).all():
        raise ConfigurationError(
            f"reference point must be a finite number or {F.shape[1]} of them, got {reference!r}"
        )
    ref = np.broadcast_to(ref, (F.shape[1],))
    inside = F[(F < ref).all(axis=1)]
    if not len(inside):
        return 0.0
    inside = np.ascontiguousarray(inside[nondominated(inside)])
    if hypervolume_backend(*inside.shape[::-1]) == "exact":
        return float(moocore.hypervolume(inside, ref=ref))
    return float(moocore.hv_approx(inside, ref=ref, nsamples=_SAMPLES))


def _checked(F: ArrayLike) -> Array:
    values = np.ascontiguousarray(F, dtype=float)
    if values.ndim != 2:
        raise ConfigurationError(f"objectives must have shape (P, M), got {values.shape}")
    if not np.isfinite(values).all():
        raise ConfigurationError(
            f"objectives hold {int((~np.isfinite(values)).sum())} NaN or infinite value(s); "
            "indicators of such a set mean nothing"
        )
    return values
