"""Scalarizations that read the losses alone: linear, Tchebycheff and its smooth form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from moofusion.algorithms.scalarize.weights import Weights

__all__ = ["linear", "smooth_tchebycheff", "tchebycheff"]

Array = NDArray[np.float64]

# Temperature of the smooth maximum, in units of the largest weighted loss.
_TEMPERATURE = 0.1


def linear(losses: Array, gram: Array, r: Array) -> Weights:
    """Linear scalarization ("LS"): ``loss = sum_k r_k loss_k``.

    Example:
        >>> linear(np.array([2.0, 1.0]), np.eye(2), np.array([0.3, 0.7])).alpha
        array([0.3, 0.7])
    """
    return Weights(np.asarray(r, float))


def tchebycheff(losses: Array, gram: Array, r: Array) -> Weights:
    """Weighted Tchebycheff: ``loss = max_k r_k loss_k``, with zero as the ideal loss.

    Its minima balance ``r_k loss_k``, as those of EPO do.

    Example:
        >>> tchebycheff(np.array([2.0, 1.0]), np.eye(2), np.array([0.3, 0.7])).alpha
        array([0. , 0.7])
    """
    alpha = np.zeros(len(r))
    worst = int(np.argmax(r * losses))
    alpha[worst] = r[worst]
    return Weights(alpha)


def smooth_tchebycheff(losses: Array, gram: Array, r: Array) -> Weights:
    """Smooth Tchebycheff: ``loss = mu log sum_k exp(r_k loss_k / mu)``.

    The temperature mu is a tenth of the largest ``r_k loss_k``, so that the weights do not depend
    on the scale of the losses.

    Source: Lin et al. 2024, Smooth Tchebycheff scalarization (arXiv:2402.19078), eq. 8.

    Example:
        >>> smooth_tchebycheff(np.array([1.0, 1.0]), np.eye(2), np.array([0.5, 0.5])).alpha
        array([0.25, 0.25])
    """
    weighted = r * losses
    mu = _TEMPERATURE * max(float(weighted.max()), 1e-12)
    return Weights(np.asarray(r * softmax(weighted / mu)))
