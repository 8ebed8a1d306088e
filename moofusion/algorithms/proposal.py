"""Algorithms that propose candidates batch by batch, without learning from earlier ones."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.algorithm import Algorithm
from pymoo.core.population import Population
from pymoo.util.display.multi import MultiObjectiveOutput
from pymoo.util.optimum import filter_optimum

from moofusion.algorithms.budget import counted_budget
from moofusion.errors import ConfigurationError

__all__ = ["ListedProposals", "ProposalAlgorithm"]

Array = NDArray[np.float64]


class ProposalAlgorithm(Algorithm):
    """Base of RandomSearch, SimplexGrid and RewardedSoup; the pattern for algorithms of your own.

    A subclass implements :meth:`_batch`. Under a budget of evaluations (``("n_eval", N)``) the
    last batch is cut, so that exactly N candidates are evaluated. The optimum is the
    non-dominated archive of everything evaluated.

    Args:
        batch_size: Candidates per iteration.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Example:
        >>> from moofusion.testing import toy_problem
        >>> from pymoo.optimize import minimize
        >>> class Anywhere(ProposalAlgorithm):
        ...     def _batch(self, size):
        ...         return self.random_state.random((size, self.problem.n_var))
        >>> result = minimize(toy_problem(), Anywhere(batch_size=4), ("n_eval", 10), seed=1)
        >>> result.algorithm.evaluator.n_eval
        10
    """

    def __init__(self, *, batch_size: int = 20, **kwargs: Any) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be positive, got {batch_size}")
        kwargs.setdefault("output", MultiObjectiveOutput())
        super().__init__(**kwargs)
        self.batch_size = batch_size
        self.opt: Any = None

    @abstractmethod
    def _batch(self, size: int) -> Array:
        """Up to `size` decision vectors ``(n, n_var)``; none at all when there are no more."""

    @property
    def budget(self) -> int | None:
        """Evaluations that the termination allows in all, where it counts them."""
        return counted_budget(self)

    def _initialize_infill(self) -> Population:
        return self._infill()

    def _infill(self) -> Population:
        size = self.batch_size
        if self.budget is not None:
            size = min(size, max(self.budget - self.evaluator.n_eval, 1))
        return Population.new(X=self._batch(size))

    def _initialize_advance(self, infills: Population | None = None, **kwargs: Any) -> None:
        self._stop_if_done()

    def _advance(self, infills: Population | None = None, **kwargs: Any) -> None:
        self.pop = Population.merge(self.opt, infills)
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if self._exhausted():
            self.termination.terminate()

    def _exhausted(self) -> bool:
        """Whether there is nothing left to propose."""
        return False

    def _set_optimum(self) -> None:
        self.opt = filter_optimum(self.pop, least_infeasible=True)


class ListedProposals(ProposalAlgorithm):
    """Proposals that form one list, known when the problem is.

    A subclass implements :meth:`_proposals`.

    Example:
        >>> from moofusion.testing import toy_problem
        >>> from pymoo.optimize import minimize
        >>> class Corners(ListedProposals):
        ...     def _proposals(self, problem):
        ...         return problem.space.uniform(np.eye(problem.space.n_experts))
        >>> minimize(toy_problem(), Corners()).algorithm.evaluator.n_eval
        3
    """

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        if not hasattr(problem, "space"):
            raise ConfigurationError(
                f"{type(self).__name__} proposes merge coefficients and needs a MergeProblem, "
                f"got {type(problem).__name__}"
            )
        self._list = self._proposals(problem)
        self._used = 0

    @abstractmethod
    def _proposals(self, problem: Any) -> Array:
        """All decision vectors, shape ``(N, n_var)``, without repetitions."""

    def _batch(self, size: int) -> Array:
        rows = self._list[self._used : self._used + size]
        self._used += len(rows)
        return rows

    def _exhausted(self) -> bool:
        return self._used >= len(self._list)
