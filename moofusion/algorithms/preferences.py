"""Preferences: points on the simplex that weigh the objectives, as grids and as user input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError, UnknownNameError

__all__ = [
    "default_points",
    "parse_preference",
    "partitions_within",
    "preference_grid",
    "simplex_lattice",
]

Array = NDArray[np.float64]


def simplex_lattice(n_parts: int, partitions: int) -> Array:
    """All points with coordinates in multiples of ``1 / partitions`` that sum to one.

    Args:
        n_parts: Number of coordinates K.
        partitions: Number of steps H from a corner to another.

    Returns:
        Array of shape ``(C(H + K - 1, K - 1), K)``, in lexicographic order.

    Source: Scheffe 1958, simplex-lattice design; Das and Dennis 1998.

    Example:
        >>> simplex_lattice(2, 2)
        array([[0. , 1. ],
               [0.5, 0.5],
               [1. , 0. ]])
    """
    if n_parts < 1 or partitions < 1:
        raise ConfigurationError(
            f"a simplex lattice needs positive sizes, got {n_parts} parts, {partitions} partitions"
        )
    places = partitions + n_parts - 1
    chosen = list(combinations(range(places), n_parts - 1))
    bars = np.array(chosen, dtype=np.int64).reshape(len(chosen), n_parts - 1)
    edges = np.hstack([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), places)])
    return np.asarray((np.diff(edges, axis=1) - 1) / partitions)


def partitions_within(n_parts: int, n_points: int) -> int:
    """Largest number of partitions whose lattice has at most `n_points` points (at least 1)."""
    partitions = 1
    while n_parts > 1 and comb(partitions + n_parts, n_parts - 1) <= n_points:
        partitions += 1
    return partitions


def default_points(n_tasks: int) -> int:
    """Usual size of a preference grid: 11 points for two tasks, 66 for three and more."""
    return {1: 1, 2: 11}.get(n_tasks, 66)


def preference_grid(n_tasks: int, n_points: int, *, rng: np.random.Generator) -> Array:
    """Preferences that cover the simplex with at most `n_points` points.

    Up to three tasks: the finest lattice that fits (11 points give steps of 0.1 for two tasks, 66
    for three). From four on: equal weights, the corners, and a Dirichlet(1) sample.

    Args:
        n_tasks: Number of objectives M.
        n_points: Largest number of preferences.
        rng: Source of randomness, used from four tasks on.

    Returns:
        Array of shape ``(N, M)``; rows are non-negative and sum to one.

    Example:
        >>> preference_grid(2, 11, rng=np.random.default_rng(0)).shape
        (11, 2)
    """
    if n_tasks <= 3:
        return simplex_lattice(n_tasks, partitions_within(n_tasks, n_points))
    fixed = np.vstack([np.full(n_tasks, 1 / n_tasks), np.eye(n_tasks)])[:n_points]
    drawn = rng.dirichlet(np.ones(n_tasks), size=max(n_points - len(fixed), 0))
    return np.vstack([fixed, drawn])


def parse_preference(
    preference: str | Mapping[str, float] | Sequence[float] | Array, names: Sequence[str]
) -> Array:
    """Weights of the objectives from user input, scaled to sum one.

    Args:
        preference: ``"mnist=0.7,animals=0.3"``, a mapping by name (names left out weigh 0), or
            one number per objective, also as text: ``"0.7,0.3"``.
        names: Names of the objectives.

    Returns:
        Array of shape ``(M,)``.

    Raises:
        UnknownNameError: A name is not among the objectives.
        ConfigurationError: A weight is negative, not a number, or all are zero.

    Example:
        >>> parse_preference("b=3,a=1", ["a", "b"])
        array([0.25, 0.75])
    """
    if isinstance(preference, str):
        preference = _plain_numbers(preference) or _parse_text(preference)
    if isinstance(preference, Mapping):
        for name in preference:
            if name not in names:
                raise UnknownNameError("objective in the preference", name, names)
        weights = _numbers([preference.get(name, 0.0) for name in names])
    else:
        weights = _numbers(preference)
        if weights.shape != (len(names),):
            raise ConfigurationError(
                f"a preference needs {len(names)} numbers ({', '.join(names)}), "
                f"got {np.size(weights)}"
            )
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ConfigurationError(
            f"preference weights must be numbers >= 0, got "
            f"{', '.join(f'{n}={w:g}' for n, w in zip(names, weights, strict=True))}"
        )
    if weights.sum() == 0:
        raise ConfigurationError("all preference weights are zero; at least one must be positive")
    return np.asarray(weights / weights.sum())


def _numbers(values: Any) -> Array:
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"preference weights must be numbers, got {values!r}") from error


def _plain_numbers(text: str) -> list[float]:
    """Numbers without names; none where the text is of another form."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []


def _parse_text(text: str) -> dict[str, float]:
    result: dict[str, float] = {}
    for part in text.split(","):
        name, sign, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not sign or not np.isfinite(number):
            raise ConfigurationError(
                f"preference {text!r}: cannot read {part!r}; expected a form such as "
                "'mnist=0.7,animals=0.3'"
            )
        if name.strip() in result:
            raise ConfigurationError(f"preference {text!r}: {name.strip()!r} occurs twice")
        result[name.strip()] = number
    return result
