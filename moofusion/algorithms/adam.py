"""Adam on a plain vector, with a cosine schedule; its state is three arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError

__all__ = ["Adam", "cosine"]

Array = NDArray[np.float64]


def cosine(step: int, steps: int, *, last: float = 0.1) -> float:
    """Factor of the learning rate: from 1 at step 0 along a half cosine to `last` at `steps`.

    Example:
        >>> cosine(0, 10), cosine(10, 10)
        (1.0, 0.1)
    """
    return last + (1 - last) * (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2


@dataclass
class Adam:
    """Adam for the few numbers that gradient methods over coefficients change.

    Source: Kingma and Ba 2015, Adam (arXiv:1412.6980), algorithm 1; with `weight_decay` AdamW,
    Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2.

    Attributes:
        lr: Learning rate.
        beta1: Decay of the mean gradient.
        beta2: Decay of the mean squared gradient.
        epsilon: Added to the denominator.
        weight_decay: Share of the vector that a step takes away for each unit of its learning
            rate, whatever the gradient is.

    Example:
        >>> adam, x = Adam(lr=0.1), np.array([1.0])
        >>> adam.step(x, 2 * x).round(6)
        array([0.9])
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    count: int = 0
    mean: Array = field(default_factory=lambda: np.zeros(0))
    square: Array = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lr) and self.lr > 0):
            raise ConfigurationError(f"lr must be positive, got {self.lr}")
        if not (np.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigurationError(f"weight_decay must be 0 or more, got {self.weight_decay}")

    def step(self, x: Array, gradient: Array, *, factor: float = 1.0) -> Array:
        """The vector after one step down `gradient`, with the learning rate times `factor`."""
        if self.count == 0:
            self.mean, self.square = np.zeros_like(x), np.zeros_like(x)
        self.count += 1
        self.mean = self.beta1 * self.mean + (1 - self.beta1) * gradient
        self.square = self.beta2 * self.square + (1 - self.beta2) * gradient**2
        mean = self.mean / (1 - self.beta1**self.count)
        square = self.square / (1 - self.beta2**self.count)
        x = x * (1 - factor * self.lr * self.weight_decay)
        return np.asarray(x - factor * self.lr * mean / (np.sqrt(square) + self.epsilon))
