"""Fewer points of a front that still stand for all of it."""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from moofusion.comparison.quality import REFERENCE
from moofusion.errors import ConfigurationError

__all__ = ["thin"]

# Exact contributions are quick up to here; beyond, distances decide.
_MAX_EXACT_OBJECTIVES = 5


def thin(F: ArrayLike, size: int) -> NDArray[np.int64]:
    """Indices of at most `size` points of a front, in their order.

    Up to five objectives the point that contributes least hypervolume is dropped, again and again
    (Emmerich, Beume and Naujoks 2005), the best of each objective last; beyond, points are picked
    that are farthest from those picked before, from the extremes on.

    Args:
        F: Normalized objectives of non-dominated points, shape ``(P, M)``.
        size: Largest number of points to keep.

    Example:
        >>> thin([[0.0, 1.0], [0.01, 0.99], [0.4, 0.4], [1.0, 0.0]], 3)
        array([0, 2, 3])
    """
    F = np.ascontiguousarray(F, dtype=float)
    if size < 1:
        raise ConfigurationError(f"a front needs at least one point, got size {size}")
    kept = np.arange(len(F))
    if len(F) <= size:
        return kept
    if F.shape[1] > _MAX_EXACT_OBJECTIVES:
        return _farthest(F, size)
    reference = np.maximum(F.max(axis=0), 1.0) + REFERENCE - 1.0
    best = np.zeros(len(F), bool)
    best[F.argmin(axis=0)] = True
    while len(kept) > size:
        contributions = np.array(moocore.hv_contributions(F[kept], ref=reference))
        if best[kept].sum() < size:
            contributions[best[kept]] = np.inf
        kept = np.delete(kept, int(np.argmin(contributions)))
    return kept


def _farthest(F: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    picked = list(dict.fromkeys(int(i) for i in F.argmin(axis=0)))[:size]
    distance = np.min([np.linalg.norm(F - F[i], axis=1) for i in picked], axis=0)
    while len(picked) < size:
        picked.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(F - F[picked[-1]], axis=1))
    return np.sort(np.array(picked))
