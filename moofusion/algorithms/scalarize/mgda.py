"""Multiple-gradient descent: the shortest convex combination of the task gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from moofusion.algorithms.scalarize.weights import Weights, interior, scaled_gram

__all__ = ["mgda", "min_norm"]

Array = NDArray[np.float64]


def min_norm(gram: Array) -> Array:
    """Point of the simplex that minimizes ``x' gram x``, exactly.

    Non-negative least squares on ``|A y|^2 + (1 - sum(y))^2`` with ``A'A = gram``: for a fixed sum
    the best y is a multiple of the wanted point.

    Args:
        gram: Positive semi-definite matrix ``(M, M)``.

    Returns:
        Weights on the simplex, shape ``(M,)``.

    Example:
        >>> min_norm(np.diag([1.0, 3.0]))
        array([0.75, 0.25])
    """
    values, vectors = np.linalg.eigh(scaled_gram(gram))
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    M = len(gram)
    y, _ = nnls(np.vstack([root, np.ones((1, M))]), np.append(np.zeros(M), 1.0))
    return np.asarray(y / y.sum())


def mgda(losses: Array, gram: Array, r: Array) -> Weights:
    """MGDA on the losses divided by the preference; equal preferences give plain MGDA.

    The step lowers every task, or the point is Pareto stationary. Orthogonal gradients of one
    length get weights proportional to r.

    Source: Desideri 2012, Multiple-gradient descent algorithm; Sener and Koltun 2018
    (arXiv:1810.04650).

    Example:
        >>> mgda(np.ones(2), np.eye(2), np.array([0.25, 0.75])).alpha
        array([0.25, 0.75])
    """
    r = interior(r)
    alpha = min_norm(gram / np.outer(r, r)) / r
    return Weights(np.asarray(alpha / alpha.sum()))
