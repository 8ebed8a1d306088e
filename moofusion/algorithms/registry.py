"""Algorithms by name, with their parameters: ``"nsga2:pop_size=20"``."""

from __future__ import annotations

import copy
import inspect
import tomllib
from typing import Any

import numpy as np
from pymoo.algorithms.base.genetic import GeneticAlgorithm
from pymoo.core.algorithm import Algorithm

from moofusion.algorithms.entry import AlgorithmEntry
from moofusion.algorithms.evolution import EVOLUTION, start_sampling
from moofusion.algorithms.gradient_entries import GRADIENT_ENTRIES
from moofusion.algorithms.map.entries import MAP_ENTRIES
from moofusion.algorithms.random_search import RandomSearch
from moofusion.algorithms.repair import ParameterRepair
from moofusion.algorithms.soups import RewardedSoup, SimplexGrid
from moofusion.errors import ConfigurationError, UnknownNameError

__all__ = ["ALGORITHMS", "AlgorithmEntry", "get_algorithm"]


def get_algorithm(text: str, problem: Any) -> Algorithm:
    """A fresh algorithm for a problem.

    Args:
        text: Name, or name and parameters: ``"nsga2:pop_size=20,sampling=box"``.
        problem: The problem it will run on (its number of objectives sets reference directions).

    Raises:
        UnknownNameError: There is no algorithm or parameter of that name.
        ConfigurationError: A parameter cannot be read.

    Example:
        >>> import moofusion
        >>> problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
        >>> get_algorithm("nsga2:pop_size=10", problem).pop_size
        10
    """
    name, _, rest = text.partition(":")
    if name not in ALGORITHMS:
        raise UnknownNameError("algorithm", name, ALGORITHMS)
    entry = ALGORITHMS[name]
    values: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, sign, value = part.partition("=")
        if not sign:
            raise ConfigurationError(
                f"algorithm {text!r}: cannot read {part!r}; expected a form such as "
                f"{name}:{next(iter(entry.parameters), 'key')}=value"
            )
        if key not in entry.parameters:
            raise UnknownNameError(f"parameter of {name}", key, entry.parameters)
        values[key] = _value(value)
        kind = inspect.signature(entry.make).parameters[key].annotation
        _check_value(text, key, str(kind), values[key])
    try:
        # Operators given as defaults are shared objects in pymoo; a copy gets its own.
        return _told_of_parameters(copy.deepcopy(entry.make(problem, **values)), problem)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"algorithm {text!r}: {error}") from error


def _told_of_parameters(algorithm: Algorithm, problem: Any) -> Algorithm:
    """Where parameters of the merge method are searched, equal models count as duplicates."""
    space = getattr(problem, "space", None)
    if isinstance(algorithm, GeneticAlgorithm) and space and space.n_coefficients < space.n_var:
        for part in (algorithm, algorithm.initialization, algorithm.mating):
            part.repair = ParameterRepair()
    return algorithm


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _check_value(text: str, key: str, declared: str, value: Any) -> None:
    """Raise unless a value suits its parameter as it is declared; whole numbers are counts."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    if "int" in declared and not (number and isinstance(value, int) and value >= 1):
        raise ConfigurationError(
            f"algorithm {text!r}: {key} must be a whole number of at least 1, got {value!r}"
        )
    if "float" in declared and not number:
        raise ConfigurationError(f"algorithm {text!r}: {key} must be a number, got {value!r}")


def _random(problem: Any, batch_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    return RandomSearch(batch_size=batch_size, sampling=start_sampling(sampling))


def _grid(problem: Any, n_points: int | None = None, total: float = 1.0) -> Algorithm:
    return SimplexGrid(n_points=n_points, total=total)


def _soup(problem: Any, n_points: int | None = None, scale: float = 1.0) -> Algorithm:
    return RewardedSoup(n_points=n_points, scale=scale)


_PROPOSALS = {
    "random": AlgorithmEntry(_random, "random search, the control"),
    "grid": AlgorithmEntry(_grid, "regular grid of coefficients"),
    "soup": AlgorithmEntry(_soup, "rewarded soup, L = r (Rame et al. 2023)"),
}

#: Every algorithm by name; tables and listings keep this order.
ALGORITHMS: dict[str, AlgorithmEntry] = {
    **EVOLUTION,
    **_PROPOSALS,
    **MAP_ENTRIES,
    **GRADIENT_ENTRIES,
}
