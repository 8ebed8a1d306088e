"""Parameters of the merge method as decision variables, beside the coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging.methods import MergeMethod
from moofusion.merging.methods.ranges import Range, Real
from moofusion.merging.spaces import Space

__all__ = ["SearchedSpace", "check_search", "searched_space", "values_of"]

Array = NDArray[np.float64]
#: What a problem file says about a parameter: bounds, or options.
Given = Sequence[bool | int | float | str]


class SearchedSpace(Space):
    """A space with parameters of the merge method as further variables, the last of x.

    Args:
        inner: Space of the coefficients.
        method: Merge method; its own values are where :meth:`decision` puts the parameters.
        ranges: Values of each parameter that is searched.

    Variables are real numbers, so that every algorithm can search them; each stands for the
    nearest value of its range. Decision vectors with the same values and coefficients are the same
    model (see :meth:`canonical`).

    Example:
        >>> from moofusion.merging import make_method, make_space
        >>> from moofusion.weights import ParameterLayout
        >>> inner = make_space("task-wise", ParameterLayout({"w": (2,)}), ["a", "b"])
        >>> space = searched_space(inner, make_method("dare"), ["density", "elect"])
        >>> space.names
        ('a', 'b', 'dare.density', 'dare.elect')
        >>> space.parameters(np.array([[0.5, 0.5, 0.3333, 0.8]]))
        [{'density': 0.33, 'elect': True}]
    """

    def __init__(self, inner: Space, method: MergeMethod, ranges: Mapping[str, Range]) -> None:
        self.inner, self.method, self.ranges = inner, method, dict(ranges)
        self.partition, self.experts, self.static = inner.partition, inner.experts, inner.static
        self.names = (*inner.names, *(f"{method.name}.{name}" for name in ranges))
        self.n_var = len(self.names)
        self.xl = np.append(inner.xl, [found.xl for found in ranges.values()])
        self.xu = np.append(inner.xu, [found.xu for found in ranges.values()])
        own = {name: getattr(method, name) for name in ranges}
        self._own = self._variables(
            {name: ranges[name].middle if v is None else v for name, v in own.items()}
        )

    @property
    def searched(self) -> dict[str, Range]:
        """Range of each searched parameter, by the name of its variable."""
        return dict(zip(self.names[self.n_coefficients :], self.ranges.values(), strict=True))

    @property
    def n_coefficients(self) -> int:
        """Number of variables that decide the coefficients."""
        return self.inner.n_coefficients

    def __repr__(self) -> str:
        # Part of fingerprints, which hold the bounds beside it: they tell plain numbers apart.
        names = [
            f"{self.method.name}.{name}{'' if type(r) is Real and not r.log else f' in {r!r}'}"
            for name, r in self.ranges.items()
        ]
        return f"{type(self).__name__}({self.inner!r}, {', '.join(names)})"

    def coefficients(self, X: Array) -> Array:
        """Coefficients ``(P, G, K)`` of decision vectors ``(P, n_var)``."""
        return self.inner.coefficients(np.atleast_2d(X)[:, : self.n_coefficients])

    def parameters(self, X: Array) -> list[dict[str, Any]]:
        """Parameters of the merge method that each decision vector sets."""
        rows = np.atleast_2d(X)[:, self.n_coefficients :].tolist()
        return [
            {name: r.value(x) for (name, r), x in zip(self.ranges.items(), row, strict=True)}
            for row in rows
        ]

    def canonical(self, X: Array) -> Array:
        """Decision vectors with every parameter at the variable of its value."""
        X = np.array(np.atleast_2d(X), float)
        X[:, self.n_coefficients :] = [self._variables(row) for row in self.parameters(X)]
        return X

    def scattered(self, X: Array, rng: np.random.Generator) -> Array:
        """Decision vectors with the parameters drawn uniformly within their bounds."""
        X, n = np.array(X, float), self.n_coefficients
        X[:, n:] = rng.uniform(self.xl[n:], self.xu[n:], (len(X), self.n_var - n))
        return X

    def decision(self, L: Array) -> Array:
        """Decision vectors of `L`, with the parameters at the method's own values."""
        return self._extended(self.inner.decision(L))

    def uniform(self, L: Array) -> Array:
        """Decision vectors for task-wise coefficients ``(P, K)``, the same in every group."""
        return self._extended(self.inner.uniform(L))

    def _variables(self, values: Mapping[str, Any]) -> Array:
        return np.array([r.variable(values[name]) for name, r in self.ranges.items()], float)

    def _extended(self, X: Array) -> Array:
        return np.hstack([X, np.tile(self._own, (len(X), 1))])

    def pullback(self, x: Array, dL: Array) -> Array:
        """There is no gradient with respect to the parameters.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            f"{', '.join(self.names[self.n_coefficients :])}: parameters of a merge method that "
            "are searched have no gradient; fix them, or choose an algorithm that needs no "
            "gradients"
        )


def values_of(ranges: Mapping[str, Range], variables: Sequence[str], X: Array) -> dict[str, Any]:
    """What the variables of `ranges` stand for in decision vectors, for tables.

    Args:
        ranges: Range of each searched parameter, by the name of its variable.
        variables: Names of all variables.
        X: Decision vectors, shape ``(P, n_var)``; a row of NaN is no merge.

    Returns:
        For each of `ranges` P values; None where the row is no merge.
    """
    found = {}
    for name, known in ranges.items():
        column = X[:, list(variables).index(name)].tolist()
        found[name] = tuple(known.value(x) if np.isfinite(x) else None for x in column)
    return found


def check_search(
    method: MergeMethod, search: Sequence[str] | Mapping[str, Given]
) -> dict[str, Range]:
    """Values of the parameters that are to be searched.

    Args:
        method: Merge method.
        search: Names of parameters; or for each the lower and upper bound, or the options of a
            choice.

    Raises:
        UnknownNameError: The method has no such parameter, or none that can be searched.
        ConfigurationError: Bounds that are not lower < upper, that are of the wrong kind, or at
            which the method has no sense; options that the parameter does not have.
    """
    ranges: dict[str, Range] = {}
    for name in search:
        if name not in method.searchable:
            raise UnknownNameError(
                f"parameter of merge method {method.name!r} to search", name, method.searchable
            )
        known = method.searchable[name]
        ranges[name] = known.over(name, search[name]) if isinstance(search, Mapping) else known
    for corner in product(*(found.extremes for found in ranges.values())):
        try:
            method.at(dict(zip(ranges, corner, strict=True)))
        except (ConfigurationError, ValueError) as error:
            raise ConfigurationError(f"bounds of {', '.join(ranges)}: {error}") from error
    return ranges


def searched_space(
    inner: Space, method: MergeMethod, search: Sequence[str] | Mapping[str, Given]
) -> Space:
    """The space with the named parameters as further variables (see :func:`check_search`)."""
    ranges = check_search(method, search)
    return SearchedSpace(inner, method, ranges) if ranges else inner
