"""Soups: merges written down straight from the preference, without any search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.budget import evaluation_budget
from moofusion.algorithms.preferences import partitions_within, preference_grid, simplex_lattice
from moofusion.algorithms.proposal import ListedProposals
from moofusion.errors import ConfigurationError

__all__ = ["RewardedSoup", "ScaledSoup", "SimplexGrid", "owners"]

Array = NDArray[np.float64]

# Points where neither the caller nor the budget says how many.
_DEFAULT_POINTS = 100


class SimplexGrid(ListedProposals):
    """A regular grid of coefficients with ``L >= 0`` and ``sum(L) <= total``, the same everywhere.

    The base (all zeros), the experts scaled by `total`, and their averages are among the points.
    They come in a seeded random order, so that a budget smaller than the grid is spent evenly.

    Args:
        n_points: Largest number of points; by default what the budget pays for, else 100.
        total: Largest sum of the coefficients.
        batch_size: Candidates per iteration.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Example:
        >>> import moofusion
        >>> from pymoo.optimize import minimize
        >>> problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
        >>> result = minimize(problem, SimplexGrid(n_points=3), seed=1)
        >>> result.algorithm.evaluator.n_eval
        3
    """

    def __init__(
        self,
        *,
        n_points: int | None = None,
        total: float = 1.0,
        batch_size: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        if not total > 0:
            raise ConfigurationError(f"total must be positive, got {total}")
        self.n_points = n_points
        self.total = total

    def _proposals(self, problem: Any) -> Array:
        # The base takes the share that the experts leave, so it is one more part of the lattice.
        parts = problem.space.n_experts + 1
        points = self.n_points or evaluation_budget(self) or _DEFAULT_POINTS
        lattice = simplex_lattice(parts, partitions_within(parts, points))
        assert self.random_state is not None
        rows = self.random_state.permutation(self.total * lattice[:, 1:])
        return _distinct(problem.space.uniform(rows))


class RewardedSoup(ListedProposals):
    """The preference itself as coefficients: ``L = scale * r`` for a grid of preferences r.

    Source: Rame et al. 2023, Rewarded soups (arXiv:2306.04488).

    Args:
        preferences: Preferences over the objectives, shape ``(N, M)``; rows are scaled to sum
            one. By default a grid (see :func:`preference_grid`).
        n_points: Size of the default grid; by default what the budget pays for, else 100.
        scale: Sum of the coefficients.
        batch_size: Candidates per iteration.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Raises:
        ConfigurationError: An objective has no expert of its own.

    Example:
        >>> import moofusion
        >>> from pymoo.optimize import minimize
        >>> problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
        >>> result = minimize(problem, RewardedSoup(n_points=3), seed=1)
        >>> result.algorithm.evaluator.n_eval
        3
    """

    def __init__(
        self,
        *,
        preferences: Array | None = None,
        n_points: int | None = None,
        scale: float = 1.0,
        batch_size: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        if not scale > 0:
            raise ConfigurationError(f"scale must be positive, got {scale}")
        self.preferences = preferences
        self.n_points = n_points
        self.scale = scale

    def _proposals(self, problem: Any) -> Array:
        shares = self._shares(problem)
        r = self._preferences(problem, self.n_points or evaluation_budget(self) or _DEFAULT_POINTS)
        return _distinct(problem.space.uniform(self.scale * r @ shares))

    def _shares(self, problem: Any) -> Array:
        """Which expert belongs to which objective, shape ``(M, K)``, ones and zeros."""
        experts, tasks = problem.space.experts, problem.tasks
        found = owners(problem)
        for task, owner in zip(tasks, found, strict=True):
            if owner is None:
                raise ConfigurationError(
                    f"{type(self).__name__} gives every objective to its expert, but task "
                    f"{task.name!r} has none among {list(experts)}"
                )
        return np.array([[float(owner == expert) for expert in experts] for owner in found])

    def _preferences(self, problem: Any, points: int) -> Array:
        """The preferences given, or a shuffled grid of at most `points`, shape ``(N, M)``."""
        tasks = problem.tasks
        assert self.random_state is not None
        if self.preferences is None:
            return np.asarray(
                self.random_state.permutation(
                    preference_grid(len(tasks), points, rng=self.random_state)
                )
            )
        r = np.atleast_2d(np.asarray(self.preferences, float))
        usable = r.shape[1] == len(tasks) and np.isfinite(r).all() and (r >= 0).all()
        if not usable or (r.sum(axis=1) == 0).any():
            raise ConfigurationError(
                f"preferences: expected rows of {len(tasks)} non-negative numbers, not all "
                f"zero, got an array of shape {r.shape}"
            )
        return np.asarray(r / r.sum(axis=1, keepdims=True))


class ScaledSoup(RewardedSoup):
    """Rewarded soups of several scales, ``L = c * r``: a control for learned coefficients.

    What a method gains over it does not come from the length of the task vectors alone. Its budget
    is spent evenly on the scales; the front over all of them is at least as good as that of the
    best single c.

    Args:
        scales: Sums c of the coefficients.
        preferences: As for :class:`RewardedSoup`.
        n_points: Points in all; by default what the budget pays for, else 100.
        batch_size: Candidates per iteration.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Example:
        >>> import moofusion
        >>> from pymoo.optimize import minimize
        >>> problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
        >>> result = minimize(problem, ScaledSoup(scales=(0.5, 1.0), n_points=4), seed=1)
        >>> result.algorithm.evaluator.n_eval
        4
    """

    def __init__(
        self, *, scales: Sequence[float] = (0.6, 0.8, 1.0, 1.2, 1.5), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not len(scales) or not all(np.isfinite(c) and c > 0 for c in scales):
            raise ConfigurationError(f"scales must be positive numbers, got {scales}")
        self.scales = tuple(float(c) for c in scales)

    def _proposals(self, problem: Any) -> Array:
        shares = self._shares(problem)
        points = self.n_points or evaluation_budget(self) or _DEFAULT_POINTS
        r = self._preferences(problem, max(points // len(self.scales), 1))
        L = np.concatenate([c * r @ shares for c in self.scales])
        assert self.random_state is not None
        return _distinct(problem.space.uniform(self.random_state.permutation(L)))


def owners(problem: Any) -> list[str | None]:
    """For each objective the expert that was trained for it: its head's, or its namesake's."""
    wanted = [task.head or task.name for task in problem.tasks]
    return [name if name in problem.space.experts else None for name in wanted]


def _distinct(X: Array) -> Array:
    """Rows without repetitions, in order of first appearance."""
    _, first = np.unique(X, axis=0, return_index=True)
    return X[np.sort(first)]
