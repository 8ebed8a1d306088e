"""Monomials up to degree two, their derivatives, and the coefficients A, b, e they stand for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["n_parameters", "quadratic_features", "quadratic_slopes", "unpacked"]

Array = NDArray[np.float64]


def n_parameters(n_var: int) -> int:
    """Free parameters of a quadratic: ``(n + 1)(n + 2) / 2``; 6, 10, 15, ... for n = 2, 3, 4.

    Example:
        >>> [n_parameters(k) for k in range(2, 9)]
        [6, 10, 15, 21, 28, 36, 45]
    """
    return (n_var + 1) * (n_var + 2) // 2


def quadratic_features(U: Array) -> Array:
    """``[1, u, u_i u_j for i <= j]``, shape ``(P, p)`` for U ``(P, n)``."""
    i, j = np.triu_indices(U.shape[1])
    return np.hstack([np.ones((len(U), 1)), U, U[:, i] * U[:, j]])


def quadratic_slopes(U: Array) -> Array:
    """Derivatives of the features, shape ``(P, n, p)``."""
    P, n = U.shape
    i, j = np.triu_indices(n)
    slopes = np.zeros((P, n, n_parameters(n)))
    axis = np.arange(n)
    slopes[:, axis, 1 + axis] = 1
    column = 1 + n + np.arange(len(i))
    # One column stands for one pair, so that no place is met twice but where i equals j.
    slopes[:, i, column] += U[:, j]
    slopes[:, j, column] += U[:, i]
    return slopes


def unpacked(beta: Array, center: Array, scale: Array) -> tuple[Array, Array, float]:
    """A ``(n, n)``, b ``(n,)``, e of ``e + b.c + c'Ac / 2``, from features of scaled variables."""
    n = len(center)
    i, j = np.triu_indices(n)
    half = np.zeros((n, n))
    half[i, j] = beta[1 + n :]
    A = (half + half.T) / np.outer(scale, scale)
    slope = beta[1 : 1 + n] / scale
    b = slope - A @ center
    e = float(beta[0] - slope @ center + center @ A @ center / 2)
    return A, b, e
