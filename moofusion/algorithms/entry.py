"""What the registry knows of an algorithm: how it is made, its parameters, one line of summary."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymoo.core.algorithm import Algorithm

__all__ = ["AlgorithmEntry"]


@dataclass(frozen=True)
class AlgorithmEntry:
    """One algorithm of the registry.

    Attributes:
        make: ``make(problem, **parameters) -> Algorithm``.
        summary: One line for listings.

    Example:
        >>> from moofusion.algorithms import ALGORITHMS
        >>> ALGORITHMS["random"].parameters
        {'batch_size': 20, 'sampling': 'coefficients'}
    """

    make: Callable[..., Algorithm]
    summary: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults of the parameters."""
        items = list(inspect.signature(self.make).parameters.values())[1:]
        return {item.name: item.default for item in items}
