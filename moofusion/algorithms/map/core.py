"""What all MAP algorithms share: stages of evaluations, a surrogate of all of them, its search."""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import moocore
import numpy as np
from numpy.typing import NDArray
from pymoo.core.algorithm import Algorithm
from pymoo.core.population import Population
from pymoo.optimize import minimize

from moofusion.algorithms.budget import evaluation_budget
from moofusion.algorithms.evolution import EVOLUTION
from moofusion.algorithms.map.selection import most_promising
from moofusion.algorithms.proposal import ProposalAlgorithm
from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.problems import SurrogateProblem
from moofusion.surrogates import SURROGATES, MergeSurrogate, Target
from moofusion.tasks.base import Metric

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Predicted", "SurrogateAlgorithm", "targets_of"]

Array = NDArray[np.float64]
#: A name of the registry's evolutionary algorithms, an algorithm, or ``make(problem)``.
Search: TypeAlias = str | Algorithm | Callable[[SurrogateProblem], Algorithm]

_POPULATION = 100
# Candidates between evaluated points, and how many of their front join that of the search.
_SCATTERED = 4096
_KEPT = 300
# Normalized objective by which a point behind the front counts half in the misfit of the fit.
_BEHIND = 0.1
# Decision vectors closer than this, in units of the bounds, are the same candidate.
_SAME = 1e-6


@dataclass(frozen=True)
class Predicted:
    """Points of predicted fronts that were sent to be verified.

    Attributes:
        X: Decision vectors, shape ``(N, n_var)``.
        F: Predicted objectives, shape ``(N, M)``.
        std: Their standard deviations, shape ``(N, M)``.
    """

    X: Array
    F: Array
    std: Array


def targets_of(problem: Any) -> list[Target]:
    """What is modelled: the metric behind each objective; the objective itself elsewhere."""
    if not hasattr(problem, "tasks"):
        return [Target.of(f"f{j + 1}", Metric("objective", "min")) for j in range(problem.n_obj)]
    return [
        Target.of(task.name, task.objective, samples=task.n_samples(problem.split) or None)
        for task in problem.tasks
    ]


class SurrogateAlgorithm(ProposalAlgorithm):
    """Base of the MAP algorithms; works through stages, each a list of candidates.

    A subclass implements :meth:`_plan`. Everything evaluated is kept and fitted; failed candidates
    are not fitted. The optimum is the non-dominated archive of everything evaluated.

    Args:
        surrogate: ``"quadratic"`` or ``"gp"``.
        search: What searches the surrogate: a name such as ``"nsga2"``, a pymoo algorithm, or a
            function ``make(problem) -> algorithm``; by default NSGA-II, from four objectives on
            NSGA-III.
        generations: Generations of that search.
        batch_size: Candidates per iteration.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Attributes:
        evaluated: Population of everything evaluated so far, in order.
    """

    def __init__(
        self,
        *,
        surrogate: str = "quadratic",
        search: Search | None = None,
        generations: int = 30,
        batch_size: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        if surrogate not in SURROGATES:
            raise UnknownNameError("surrogate", surrogate, SURROGATES)
        if isinstance(search, str) and search not in EVOLUTION:
            raise UnknownNameError("search algorithm", search, EVOLUTION)
        if generations < 1:
            raise ConfigurationError(f"generations must be positive, got {generations}")
        SURROGATES[surrogate]()  # says now what is not installed
        self.surrogate_kind = surrogate
        self.search = search
        self.generations = generations
        self.evaluated = Population.new()
        self.stage = 0
        self._fitted: tuple[int, MergeSurrogate] | None = None
        self._promised: list[Predicted] = []

    # ------------------------------------------------------------------ stages

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        self.targets = targets_of(problem)
        self._queue = np.empty((0, problem.n_var))

    @abstractmethod
    def _plan(self) -> Array:
        """Candidates of the next stage ``(n, n_var)``; none at all when the search is over."""

    @property
    def budget(self) -> int | None:
        """Evaluations that the termination allows in all, where it counts them or their cost."""
        return evaluation_budget(self, spent_otherwise=self._spent_otherwise())

    def _spent_otherwise(self) -> float:
        """Cost units that were not spent on evaluations."""
        return 0.0

    @property
    def left(self) -> int | None:
        """Evaluations that are left of the budget; None where nothing counts them."""
        return None if self.budget is None else max(self.budget - len(self.evaluated), 0)

    def _batch(self, size: int) -> Array:
        if not len(self._queue):
            self._next_stage()
        rows, self._queue = self._queue[:size], self._queue[size:]
        return rows

    def _next_stage(self) -> None:
        self._queue = np.atleast_2d(self._plan())
        if self.left is not None:
            self._queue = self._queue[: self.left]
        self.stage += 1

    def _initialize_advance(self, infills: Population | None = None, **kwargs: Any) -> None:
        self.evaluated = Population.merge(self.evaluated, infills)
        super()._initialize_advance(infills=infills, **kwargs)

    def _advance(self, infills: Population | None = None, **kwargs: Any) -> None:
        self.evaluated = Population.merge(self.evaluated, infills)
        super()._advance(infills=infills, **kwargs)

    def _exhausted(self) -> bool:
        if len(self._queue):
            return False
        if self.left == 0:
            return True
        self._next_stage()
        return not len(self._queue)

    def _finalize(self) -> None:
        # Not earlier: a design of as many points as parameters leaves nothing to judge it by.
        if self._fitted is not None:
            self.surrogate.warn_if_poor()

    # ------------------------------------------------------------------ surrogate

    @property
    def surrogate(self) -> MergeSurrogate:
        """Surrogates fitted to everything evaluated so far."""
        if self._fitted is None or self._fitted[0] != len(self.evaluated):
            self._fitted = (len(self.evaluated), self._fit(self.evaluated))
        return self._fitted[1]

    def _usable(self, population: Population) -> Population:
        """Candidates that did not fail."""
        failed = population.get("failed")
        keep = np.array([not bool(np.nan_to_num(float(f or 0))) for f in failed], bool)
        if not keep.any():
            raise ConfigurationError(
                f"all {len(population)} candidates failed so far; there is nothing to fit"
            )
        return population[keep]

    def _values(self, population: Population) -> Array:
        key = "metric" if hasattr(self.problem, "tasks") else "F"
        return np.asarray(population.get(key), float)

    def _fit(self, population: Population) -> MergeSurrogate:
        usable = self._usable(population)
        return MergeSurrogate.fit(
            usable.get("X").astype(float),
            self._values(usable),
            self.targets,
            kind=self.surrogate_kind,
            constraints=self._constraint_values(usable),
            relevance=self._relevance(np.asarray(usable.get("F"), float)),
            **self._place(),
        )

    def _relevance(self, F: Array) -> Array:
        """1 on the front of what was evaluated, less the farther a point is behind it.

        A quadratic cannot be right everywhere; what it says of destroyed models does not matter.
        """
        scaled = self._normalize(F)
        front = scaled[moocore.is_nondominated(scaled)]
        behind = (scaled[:, None] - front[None]).max(axis=2).min(axis=1)
        return np.asarray(1 / (1 + (np.maximum(behind, 0) / _BEHIND) ** 2))

    def _constraint_values(self, population: Population) -> Array | None:
        return np.asarray(population.get("G"), float) if self.problem.n_ieq_constr else None

    def _place(self) -> dict[str, Any]:
        space = getattr(self.problem, "space", None)
        return {"space": space, "xl": self.problem.xl, "xu": self.problem.xu}

    # ------------------------------------------------------------------ search

    def _normalize(self, F: Array) -> Array:
        """Objectives on the scale of the anchors, or of what was evaluated."""
        if hasattr(self.problem, "normalize"):
            return np.asarray(self.problem.normalize(F))
        seen = np.asarray(self._usable(self.evaluated).get("F"), float)
        low, high = seen.min(axis=0), seen.max(axis=0)
        return np.asarray((F - low) / np.where(high > low, high - low, 1.0))

    def _known(self) -> Array:
        """Normalized objectives of all feasible evaluations."""
        if not len(self.evaluated):
            return np.empty((0, self.problem.n_obj))
        usable = self._usable(self.evaluated)
        feasible = np.asarray(usable.get("CV"), float).ravel() <= 0
        return self._normalize(np.asarray(usable.get("F"), float)[feasible])

    def _searched(self, surrogate: MergeSurrogate, *, optimism: float = 0.0) -> Array:
        """Last population of a search on the surrogate, feasible and new, front first."""
        assert self.random_state is not None
        problem = self._surrogate_problem(surrogate, optimism)
        seed = int(self.random_state.integers(2**31 - 1))
        start = self._start(surrogate)
        # NSGA-III turns warnings off for the whole process.
        with warnings.catch_warnings():
            result = minimize(
                problem, self._searcher(problem, start), ("n_gen", self.generations), seed=seed
            )
        pop = Population.merge(result.opt, result.pop)
        X = np.asarray(pop.get("X"), float)
        feasible = np.asarray(pop.get("CV"), float).ravel() <= 0
        return self._new(np.vstack([X[feasible], self._scattered(problem)]))

    def _scattered(self, problem: SurrogateProblem) -> Array:
        """Predicted front of many candidates between evaluated points.

        A population of a hundred is a coarse front of four objectives.
        """
        assert self.random_state is not None
        X = self._between(problem.surrogate.support.X, _SCATTERED)
        F, G = problem.evaluate(X, return_values_of=["F", "G"])
        X, F = X[(G <= 0).all(axis=1)], F[(G <= 0).all(axis=1)]
        X = X[moocore.is_nondominated(F)] if len(X) else X
        return np.asarray(X[self.random_state.permutation(len(X))[:_KEPT]])

    def _surrogate_problem(self, surrogate: MergeSurrogate, optimism: float) -> SurrogateProblem:
        return surrogate.problem(optimism=optimism)

    def _searcher(self, problem: SurrogateProblem, start: Array) -> Algorithm:
        search = self.search or ("nsga2" if problem.n_obj <= 3 else "nsga3")
        if isinstance(search, str):
            algorithm = EVOLUTION[search].make(problem, pop_size=_POPULATION)
            algorithm.initialization.sampling = start
            return copy.deepcopy(algorithm)
        if isinstance(search, Algorithm):
            return copy.deepcopy(search)
        return search(problem)

    def _start(self, surrogate: MergeSurrogate) -> Array:
        """Evaluated points, and points between them: a population inside the support."""
        assert self.random_state is not None
        X = surrogate.support.X
        X = X[self.random_state.permutation(len(X))[: _POPULATION // 2]]
        return np.vstack([X, self._between(X, _POPULATION - len(X))])

    def _between(self, X: Array, count: int) -> Array:
        """Random convex combinations of up to three points each."""
        assert self.random_state is not None
        triples = X[self.random_state.integers(0, len(X), (count, 3))]
        shares = self.random_state.dirichlet(np.ones(3), count)
        mixed = np.einsum("ct,ctn->cn", shares, triples)
        return np.asarray(np.clip(mixed, self.problem.xl, self.problem.xu))

    def _new(self, X: Array) -> Array:
        """Candidates that were not evaluated, each once."""
        width = self.problem.xu - self.problem.xl
        _, first = np.unique((X / width / _SAME).round(), axis=0, return_index=True)
        X = X[np.sort(first)]
        seen = np.asarray(self.evaluated.get("X"), float)
        if not len(seen) or not len(X):
            return X
        distance = np.abs(X[:, None] - seen[None]).max(axis=2)
        return np.asarray(X[distance.min(axis=1) > _SAME * width.max()])

    def _promise(self, count: int, *, optimism: float = 0.0) -> Array:
        """The `count` most promising new points of the predicted front; they are remembered."""
        surrogate = self.surrogate
        X = self._searched(surrogate)
        if optimism > 0:
            X = self._new(np.vstack([X, self._searched(surrogate, optimism=optimism)]))
        if len(X) < count:
            X = np.vstack([X, self._new(self._between(surrogate.support.X, 2 * count))])
        F = surrogate.predict(X, optimism=optimism)[0]
        chosen = X[most_promising(self._normalize(F), self._known(), count)]
        self._remember(surrogate, chosen)
        return chosen

    def _remember(self, surrogate: MergeSurrogate, X: Array) -> None:
        F, std = surrogate.predict(X)
        self._promised.append(Predicted(X, F, std))

    # ------------------------------------------------------------------ results

    @property
    def predicted(self) -> Predicted:
        """What was predicted for the points that were evaluated to verify a predicted front."""
        everything = [np.empty((0, self.problem.n_var)), *(p.X for p in self._promised)]
        shape = (0, self.problem.n_obj)
        X = np.vstack(everything)
        F = np.vstack([np.empty(shape), *(p.F for p in self._promised)])
        std = np.vstack([np.empty(shape), *(p.std for p in self._promised)])
        seen = {ind.X.astype(float).tobytes() for ind in self.evaluated}
        keep = np.array([row.tobytes() in seen for row in X], bool)
        return Predicted(X[keep], F[keep], std[keep])

    def measured(self, X: Array) -> Array:
        """Objectives ``(P, M)`` of evaluated decision vectors.

        Raises:
            ConfigurationError: One was not evaluated.
        """
        known = {ind.X.astype(float).tobytes(): ind.F for ind in self.evaluated}
        try:
            rows = [known[row.tobytes()] for row in np.atleast_2d(np.asarray(X, float))]
        except KeyError:
            raise ConfigurationError("a decision vector was not evaluated by this run") from None
        return np.array(rows, float).reshape(len(rows), self.problem.n_obj)

    def gap(self) -> pd.DataFrame:
        """What predicted fronts promised too much: real minus predicted objective.

        One row per objective: mean, mean absolute and largest, and over how many points; positive
        means that the real merge was worse than predicted. Where a variant predicts some objectives
        only (:class:`NestedMAP`), the others do not count.
        """
        import pandas as pd

        predicted = self.predicted
        short = pd.DataFrame(
            self.measured(predicted.X) - predicted.F,
            columns=pd.Index([t.name for t in self.targets], name="objective"),
        )
        return pd.DataFrame(
            {
                "mean": short.mean(),
                "mean absolute": short.abs().mean(),
                "largest": short.max(),
                "points": short.count(),
            }
        )
