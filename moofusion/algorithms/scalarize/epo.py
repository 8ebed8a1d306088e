"""Exact Pareto optimal search: the linear program that balances losses against a preference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from moofusion.algorithms.scalarize.weights import Weights, interior, scaled_gram

__all__ = ["epo", "non_uniformity"]

Array = NDArray[np.float64]

# Non-uniformity up to which the losses count as balanced.
_BALANCED = 1e-4
_TINY = 1e-300


def non_uniformity(losses: Array, r: Array) -> Array:
    """How far ``r * losses`` is from all equal: ``mu = sum_k p_k log(K p_k)``.

    Here ``p = r * losses / sum(r * losses)``; mu is the Kullback-Leibler divergence of p from the
    uniform distribution: 0 where the losses are inversely proportional to the preference, at most
    log K.

    Args:
        losses: Positive losses, shape ``(..., K)``.
        r: Preferences, shape ``(..., K)``; shares are at least 1e-6.

    Returns:
        mu, shape ``(...)``.

    Source: Mahapatra and Rajan 2020, Multi-task learning with user preferences, eq. 8.

    Example:
        >>> float(non_uniformity(np.array([2.0, 1.0]), np.array([1 / 3, 2 / 3])))
        0.0
    """
    p = _shares(losses, r)
    return np.asarray(np.sum(p * np.log(p.shape[-1] * p), axis=-1))


def _shares(losses: Array, r: Array) -> Array:
    clipped = np.maximum(r, 1e-6)
    weighted = np.maximum(clipped * losses, _TINY)
    return np.asarray(weighted / weighted.sum(axis=-1, keepdims=True))


def epo(losses: Array, gram: Array, r: Array) -> Weights:
    """Weights ``K x`` of the exact Pareto optimal search, x on the simplex.

    While the losses are out of balance (mu > 1e-4) the step makes ``r_k loss_k`` more equal
    without letting the tasks rise that need not; once they are balanced it descends on all of them
    and keeps the balance. The inner products are divided by the largest one, and zero shares of
    the preference raised to 1e-6, so corners and vanishing gradients are solved as well. A program
    without a solution gives the preference, with ``fallback``.

    Source: Mahapatra and Rajan 2020, Multi-task learning with user preferences: gradient descent
    with controlled ascent in Pareto optimization (ICML), eq. 13 and 24.

    Example:
        >>> found = epo(np.array([4.0, 1.0]), np.eye(2), np.array([0.5, 0.5]))
        >>> found.alpha, found.fallback
        (array([2., 0.]), False)
    """
    K = len(r)
    if K == 1:
        return Weights(np.ones(1))
    r = interior(r)
    C = scaled_gram(gram)
    p = _shares(losses, r)
    mu = float(np.sum(p * np.log(K * p)))
    a = r * (np.log(K * p) - mu)
    c = C @ a
    if mu > _BALANCED:
        gain = c
        floor = np.where(c > 0, -np.inf, c)
        if not (c > 0).any():
            floor[:] = 0.0
        floor[int(np.argmax(r * losses))] = 0.0
        rows, limits = C, floor
    else:
        gain = C.sum(axis=0)
        rows, limits = np.vstack([c, C]), np.append(np.zeros(K), 0.0)
        limits[0] = min(0.0, float(c.max()))
    # A mixed-integer program without integers: scipy's other way to HiGHS takes twice as long.
    found = milp(
        -gain,
        constraints=[
            LinearConstraint(rows, limits, np.inf),
            LinearConstraint(np.ones((1, K)), 1.0, 1.0),
        ],
        bounds=Bounds(0, np.inf),
    )
    if found.status != 0:
        return Weights(K * r, fallback=True)
    x = np.maximum(found.x, 0)
    return Weights(np.asarray(K * x / x.sum()))
