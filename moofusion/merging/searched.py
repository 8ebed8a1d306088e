"""Parameters of the merge method as decision variables, beside the coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging.methods import MergeMethod
from moofusion.merging.spaces import Space

__all__ = ["SearchedSpace", "check_search", "searched_space"]

Array = NDArray[np.float64]

#: Parameters are rounded to multiples of this, so that few values have to be prepared.
STEP = 0.01


class SearchedSpace(Space):
    """A space with parameters of the merge method as further variables, the last of x.

    Args:
        inner: Space of the coefficients.
        method: Merge method; its own values are where :meth:`decision` puts the parameters.
        bounds: Lower and upper bound of each parameter that is searched.

    Values are rounded to multiples of 0.01 within the bounds.

    Example:
        >>> from moofusion.merging import make_method, make_space
        >>> from moofusion.weights import ParameterLayout
        >>> inner = make_space("task-wise", ParameterLayout({"w": (2,)}), ["a", "b"])
        >>> space = SearchedSpace(inner, make_method("ties"), {"density": (0.1, 0.9)})
        >>> space.names
        ('a', 'b', 'ties.density')
        >>> space.parameters(np.array([[0.5, 0.5, 0.3333]]))
        [{'density': 0.33}]
    """

    def __init__(
        self, inner: Space, method: MergeMethod, bounds: Mapping[str, tuple[float, float]]
    ) -> None:
        self.inner, self.method = inner, method
        self.searched = tuple(bounds)
        self.partition, self.experts, self.static = inner.partition, inner.experts, inner.static
        self.names = (*inner.names, *(f"{method.name}.{name}" for name in bounds))
        self.n_var = len(self.names)
        self.xl = np.append(inner.xl, [low for low, _ in bounds.values()])
        self.xu = np.append(inner.xu, [high for _, high in bounds.values()])
        own = [getattr(method, name) for name in bounds]
        middle = [(low + high) / 2 for low, high in bounds.values()]
        chosen = [m if value is None else value for value, m in zip(own, middle, strict=True)]
        self._own = np.clip(np.array(chosen, float), *self._bounds())

    def _bounds(self) -> tuple[Array, Array]:
        n = self.inner.n_var
        return self.xl[n:], self.xu[n:]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r}, {', '.join(self.names[self.inner.n_var :])})"

    def coefficients(self, X: Array) -> Array:
        """Coefficients ``(P, G, K)`` of decision vectors ``(P, n_var)``."""
        return self.inner.coefficients(np.atleast_2d(X)[:, : self.inner.n_var])

    def parameters(self, X: Array) -> list[dict[str, float]]:
        """Parameters of the merge method that each decision vector sets."""
        values = np.round(np.atleast_2d(X)[:, self.inner.n_var :] / STEP) * STEP
        values = np.clip(np.round(values, 10), *self._bounds())
        return [dict(zip(self.searched, row, strict=True)) for row in values.tolist()]

    def decision(self, L: Array) -> Array:
        """Decision vectors of `L`, with the parameters at the method's own values."""
        return self._extended(self.inner.decision(L))

    def uniform(self, L: Array) -> Array:
        """Decision vectors for task-wise coefficients ``(P, K)``, the same in every group."""
        return self._extended(self.inner.uniform(L))

    def _extended(self, X: Array) -> Array:
        return np.hstack([X, np.tile(self._own, (len(X), 1))])

    def pullback(self, x: Array, dL: Array) -> Array:
        """There is no gradient with respect to the parameters.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            f"{', '.join(self.names[self.inner.n_var :])}: parameters of a merge method that are "
            "searched have no gradient; fix them, or choose an algorithm that needs no gradients"
        )


def check_search(
    method: MergeMethod, search: Sequence[str] | Mapping[str, Sequence[float]]
) -> dict[str, tuple[float, float]]:
    """Bounds of the parameters that are to be searched.

    Args:
        method: Merge method.
        search: Names of parameters, or for each the lower and upper bound.

    Raises:
        UnknownNameError: The method has no such parameter, or none that can be searched.
        ConfigurationError: Bounds that are not lower < upper, or at which the method has no sense.
    """
    bounds: dict[str, tuple[float, float]] = {}
    for name in search:
        if name not in method.bounds:
            raise UnknownNameError(
                f"parameter of merge method {method.name!r} to search", name, method.bounds
            )
        given = search[name] if isinstance(search, Mapping) else method.bounds[name]
        low, high = (float(value) for value in given)
        if not low < high:
            raise ConfigurationError(
                f"bounds of merge parameter {name!r} must be lower < upper, got {low} and {high}"
            )
        bounds[name] = low, high
    for corner in product(*bounds.values()):
        try:
            method.at(dict(zip(bounds, corner, strict=True)))
        except (ConfigurationError, ValueError) as error:
            raise ConfigurationError(f"bounds of {', '.join(bounds)}: {error}") from error
    return bounds


def searched_space(
    inner: Space, method: MergeMethod, search: Sequence[str] | Mapping[str, Sequence[float]]
) -> Space:
    """The space with the named parameters as further variables (see :func:`check_search`)."""
    bounds = check_search(method, search)
    return SearchedSpace(inner, method, bounds) if bounds else inner
