"""The scale of all comparisons: objectives between the best and the worst anchor."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["anchor_range", "normalized"]

Array = NDArray[np.float64]


def normalized(F: ArrayLike, ideal: ArrayLike, nadir: ArrayLike) -> Array:
    """Objectives on the scale of the anchors: 0 is the best anchor, 1 the worst, in each.

    Args:
        F: Objectives, shape ``(P, M)``.
        ideal: Best anchor of each objective, shape ``(M,)``.
        nadir: Worst anchor of each objective, shape ``(M,)``.

    Example:
        >>> normalized([[0.5, 3.0]], [0.0, 1.0], [1.0, 5.0])
        array([[0.5, 0.5]])
    """
    return np.asarray((np.asarray(F, float) - np.asarray(ideal)) / anchor_range(ideal, nadir))


def anchor_range(ideal: ArrayLike, nadir: ArrayLike) -> Array:
    """Distance between worst and best anchor, shape ``(M,)``; 1 where they agree."""
    spread = np.asarray(nadir, float) - np.asarray(ideal, float)
    return np.where(spread > 0, spread, 1.0)
