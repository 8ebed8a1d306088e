"""Tables of objectives: what every indicator asks of its input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moofusion.errors import ConfigurationError

__all__ = ["checked_objectives", "checked_sets", "checked_values", "lexsorted"]

Array = NDArray[np.float64]


def lexsorted(F: Array) -> Array:
    """The rows of `F` in lexicographic order, so that results do not depend on their order.

    Args:
        F: Objectives, shape ``(P, M)``.

    Example:
        >>> lexsorted(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]))
        array([[0., 1.],
               [0., 2.],
               [1., 0.]])
    """
    return np.ascontiguousarray(F[np.lexsort(F.T[::-1])])


def checked_objectives(
    F: ArrayLike, *, n_obj: int | None = None, what: str = "objectives"
) -> Array:
    """Objectives as a table of finite numbers.

    Args:
        F: Objectives, shape ``(P, M)``.
        n_obj: Expected number of objectives M, if it is known.
        what: Name of the table in messages.

    Returns:
        A contiguous float array; `F` itself where it already is one.

    Raises:
        ConfigurationError: Another shape, or NaN or infinite values.

    Example:
        >>> checked_objectives([[0, 1]])
        array([[0., 1.]])
    """
    expected = "(P, M)" if n_obj is None else f"(P, {n_obj})"
    values = np.ascontiguousarray(_numbers(F, expected, what))
    if values.ndim != 2 or values.shape[1] < 1 or (n_obj or values.shape[1]) != values.shape[1]:
        raise ConfigurationError(f"{what} must have shape {expected}, got {values.shape}")
    if not np.isfinite(values).all():
        raise ConfigurationError(
            f"{what} hold {int((~np.isfinite(values)).sum())} NaN or infinite value(s); "
            "indicators of such a set mean nothing"
        )
    return values


def checked_sets(sets: Sequence[ArrayLike], *, what: str = "set") -> list[Array]:
    """Several tables of objectives, all with the same number of objectives, at least one.

    Args:
        sets: Objectives of each set, shapes ``(P_i, M)``.
        what: What a set is, in messages.

    Raises:
        ConfigurationError: No set, different numbers of objectives, NaN or infinite values.
    """
    if not len(sets):
        raise ConfigurationError(f"at least one {what} is needed, got none")
    first = checked_objectives(sets[0], what=f"objectives of {what} 1")
    rest = [
        checked_objectives(F, n_obj=first.shape[1], what=f"objectives of {what} {i}")
        for i, F in enumerate(sets[1:], start=2)
    ]
    return [first, *rest]


def checked_values(values: ArrayLike, *, what: str = "values") -> Array:
    """A list of finite numbers, shape ``(S,)`` with at least one.

    Args:
        values: One number per run.
        what: Name of the list in messages.

    Raises:
        ConfigurationError: Another shape, nothing, or NaN or infinite values.
    """
    found = np.array(_numbers(values, "(S,)", what))
    if found.ndim != 1 or not len(found):
        raise ConfigurationError(f"{what} must have shape (S,) with S >= 1, got {found.shape}")
    if not np.isfinite(found).all():
        raise ConfigurationError(
            f"{what} hold {int((~np.isfinite(found)).sum())} NaN or infinite value(s); leave such "
            "runs out, or give them the worst value, before comparing"
        )
    return found


def _numbers(values: ArrayLike, expected: str, what: str) -> Array:
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{what} must be numbers of shape {expected}: {error}") from error
