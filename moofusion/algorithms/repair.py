"""Rounds searched parameters of merge methods, so that pymoo knows equal models as duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.repair import Repair

__all__ = ["ParameterRepair"]

Array = NDArray[np.float64]


class ParameterRepair(Repair):
    """Puts every searched parameter at the variable of the value that it stands for.

    It is pymoo's ``RoundingRepair`` for variables of which only some are rounded. Algorithms by
    name have it already; give it to one of pymoo's own: ``NSGA2(repair=ParameterRepair())``. On
    problems without such parameters it changes nothing.

    Example:
        >>> from pymoo.core.population import Population
        >>> from moofusion.testing import toy_problem
        >>> problem = toy_problem(merge={"method": "dare", "search": ["elect"]})
        >>> one = Population.new(X=np.array([[0.5, 0.2, 0.1, 0.8]]))
        >>> ParameterRepair()(problem, one).get("X")
        array([[0.5, 0.2, 0.1, 1. ]])
    """

    def _do(self, problem: Any, X: Array, **kwargs: Any) -> Array:
        space = getattr(problem, "space", None)
        return X if space is None else np.asarray(space.canonical(X))
