"""Which points of a predicted front are evaluated: those that promise most beyond what is known."""

from __future__ import annotations

import heapq

import moocore
import numpy as np
from numpy.typing import NDArray

__all__ = ["REFERENCE", "most_promising"]

Array = NDArray[np.float64]

#: Reference point of the hypervolume, per normalized objective; the one of the comparisons.
REFERENCE = 1.1

# Beyond this many objectives distances decide, since exact hypervolumes take too long.
_MAX_EXACT_OBJECTIVES = 5


def most_promising(F: Array, known: Array, count: int) -> NDArray[np.int64]:
    """Indices of `count` candidates that together improve most on known points (minimization).

    Greedy by hypervolume improvement over the known points and the candidates chosen before
    (within 1 - 1/e of the best subset: Nemhauser, Wolsey, Fisher 1978). When no candidate promises
    any, and beyond five objectives, the ones farthest from everything known (maximin).

    Args:
        F: Normalized predicted objectives, shape ``(C, M)``.
        known: Normalized objectives that were measured, shape ``(P, M)``.
        count: How many to choose.

    Example:
        >>> F = np.array([[0.1, 0.5], [0.11, 0.5], [0.5, 0.1]])
        >>> most_promising(F, np.array([[0.6, 0.6]]), 2).tolist()
        [0, 2]
    """
    count = min(count, len(F))
    picked: list[int] = []
    if F.shape[1] <= _MAX_EXACT_OBJECTIVES:
        picked = _by_hypervolume(F, known, count)
    picked += _by_distance(F, known, picked, count - len(picked))
    return np.array(picked, np.int64)


def _by_hypervolume(F: Array, known: Array, count: int) -> list[int]:
    ref = np.full(F.shape[1], REFERENCE)
    inside = known[(known < ref).all(axis=1)]
    front = inside[moocore.is_nondominated(inside)] if len(inside) else inside

    def volume(points: Array) -> float:
        return float(moocore.hypervolume(points, ref=ref)) if len(points) else 0.0

    total = volume(front)
    clipped = np.minimum(F, ref)
    # Lazy greedy: improvements only shrink, so that a stale one is an upper bound.
    heap = [(-(volume(np.vstack([front, row])) - total), i, 0) for i, row in enumerate(clipped)]
    heapq.heapify(heap)
    picked: list[int] = []
    while heap and len(picked) < count:
        gain, i, seen = heapq.heappop(heap)
        if -gain <= 1e-9:
            break
        if seen == len(picked):
            picked.append(i)
            front = np.vstack([front, clipped[i]])
            front = front[moocore.is_nondominated(front)]
            total = volume(front)
        else:
            fresh = volume(np.vstack([front, clipped[i]])) - total
            heapq.heappush(heap, (-fresh, i, len(picked)))
    return picked


def _by_distance(F: Array, known: Array, picked: list[int], count: int) -> list[int]:
    if count <= 0:
        return []
    rest = [i for i in range(len(F)) if i not in set(picked)]
    # Dominated candidates come after all others.
    front = np.zeros(len(F), bool)
    front[rest] = moocore.is_nondominated(F[rest])
    there = np.vstack([known, F[picked]])
    distance = np.full(len(F), np.inf)
    for row in there:
        distance = np.minimum(distance, np.linalg.norm(F - row, axis=1))
    found: list[int] = []
    while len(found) < count:
        open_ = [i for i in rest if i not in found]
        pool = [i for i in open_ if front[i]] or open_
        best = max(pool, key=lambda i: distance[i])
        found.append(best)
        distance = np.minimum(distance, np.linalg.norm(F - F[best], axis=1))
    return found
