"""What a scalarization returns: the weights of the task gradients in one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError

__all__ = ["Scalarizer", "Weights", "interior", "scaled_gram"]

Array = NDArray[np.float64]

# Smallest share of a preference where logarithms or quotients of it are taken.
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Weights:
    """Weights of the M task gradients; the step descends along ``alpha @ J``.

    Attributes:
        alpha: Weights, shape ``(M,)``; non-negative but for some aggregators of TorchJD.
        fallback: Whether the rule had no solution and the preference itself was taken.
    """

    alpha: Array
    fallback: bool = False


#: ``scalarizer(losses, gram, r)``: mean losses ``(M,)``, inner products of the task gradients
#: ``gram = J @ J.T`` of shape ``(M, M)``, preference ``(M,)`` that sums to one.
Scalarizer = Callable[[Array, Array, Array], Weights]


def interior(r: Array) -> Array:
    """The preference with every share at least 1e-6, summing to one."""
    clipped = np.maximum(r, _SMALLEST)
    return np.asarray(clipped / clipped.sum())


def scaled_gram(gram: Array) -> Array:
    """Inner products divided by the largest squared norm; zeros stay zeros.

    Solvers have absolute tolerances, so without this the answer depends on the scale of the
    gradients.
    """
    largest = float(np.diag(gram).max())
    if not np.isfinite(gram).all():
        raise ConfigurationError("the inner products of the gradients hold NaN or infinite values")
    return np.asarray(gram / largest if largest > 0 else gram)
