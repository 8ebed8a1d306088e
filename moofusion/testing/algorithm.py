"""The contract of algorithms."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pymoo.core.algorithm import Algorithm
from pymoo.optimize import minimize

from moofusion.errors import ConfigurationError
from moofusion.problems import Constraint, Evaluation, MergeProblem
from moofusion.testing.standins import toy_problem

__all__ = ["AlgorithmContract", "AlgorithmTraits"]

Array = NDArray[np.float64]
Maker = Callable[[MergeProblem], Algorithm]


@dataclass(frozen=True)
class AlgorithmTraits:
    """What an algorithm promises; the defaults are the strictest.

    Attributes:
        overshoot: Evaluations by which it may exceed its budget (a generation less one).
        stops_early: Whether it may end before its budget is spent.
        bounded: Whether it keeps to the bounds of the problem.
        random: Whether other seeds give other runs.
        archive: Whether its result is the front of everything it evaluated. If not, the result
            must still consist of evaluated candidates, none of which dominates another.
        refused: Numbers of objectives among 1, 2 and 4 that it refuses with a clear error.
        constraints: Whether it handles constraints; if not, it refuses them.

    Example:
        >>> AlgorithmTraits(overshoot=19, archive=False).stops_early
        False
    """

    overshoot: int = 0
    stops_early: bool = False
    bounded: bool = True
    random: bool = True
    archive: bool = True
    refused: tuple[int, ...] = ()
    constraints: bool = True


@dataclass
class _Run:
    """One run and everything it evaluated, in order."""

    result: Any = None
    X: list[Array] = field(default_factory=list)
    found: list[Evaluation] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)

    def record(self, x: Array, evaluation: Evaluation, hit: bool) -> None:
        self.X.append(x.copy())
        self.found.append(evaluation)
        self.hits.append(hit)


class AlgorithmContract:
    """What studies rely on in an algorithm, on toy merge problems.

    A subclass gives the fixture `make_algorithm`, a function ``problem -> Algorithm``, and where
    the algorithm promises less than :class:`AlgorithmTraits`, the fixture `traits`.

    Attributes:
        budget: Evaluations of a run.

    Example:
        >>> from moofusion import RandomSearch
        >>> class TestMyAlgorithm(AlgorithmContract):
        ...     @pytest.fixture
        ...     def make_algorithm(self):
        ...         return lambda problem: RandomSearch(batch_size=7)
    """

    budget: int = 23

    @pytest.fixture
    def traits(self) -> AlgorithmTraits:
        """What the algorithm promises."""
        return AlgorithmTraits()

    def test_the_budget_is_kept(self, make_algorithm: Maker, traits: AlgorithmTraits) -> None:
        """Comparisons are at equal cost, so nothing may be evaluated on the side."""
        problem = _toy(2)
        run = _run(problem, make_algorithm, self.budget)
        spent = run.result.algorithm.evaluator.n_eval
        assert len(run.X) == spent, "evaluations went past the algorithm's own evaluator"
        assert spent <= self.budget + traits.overshoot
        assert spent > 0
        if not traits.stops_early:
            assert spent >= self.budget

    def test_candidates_lie_within_the_bounds(
        self, make_algorithm: Maker, traits: AlgorithmTraits
    ) -> None:
        """Nothing outside of the space is evaluated, and nothing that is not finite."""
        problem = _toy(2, space={"kind": "block-wise", "lower": 0.0, "upper": 0.6})
        X = np.array(_run(problem, make_algorithm, self.budget).X)
        assert np.isfinite(X).all()
        if traits.bounded:
            assert (problem.xl <= X).all()
            assert (problem.xu >= X).all()

    def test_equal_seeds_give_equal_runs(
        self, make_algorithm: Maker, traits: AlgorithmTraits
    ) -> None:
        """The seed decides everything, whatever the global generators hold."""
        runs = []
        for seed, elsewhere in ((1, 11), (1, 12), (2, 13)):
            with _global_seeds(elsewhere):
                runs.append(_run(_toy(2), make_algorithm, self.budget, seed))
        first, second, other = (np.array(run.X) for run in runs)
        assert np.array_equal(first, second)
        assert np.array_equal(runs[0].result.F, runs[1].result.F)
        if traits.random:
            assert not np.array_equal(first, other), "the seed has no effect"

    def test_global_generators_are_left_alone(self, make_algorithm: Maker) -> None:
        """Neither Python's, NumPy's nor torch's state moves."""
        with _global_seeds(5):
            before = _global_states()
            _run(_toy(2), make_algorithm, self.budget)
            assert _global_states() == before, "a global random generator was used or seeded"

    def test_a_run_resumes_by_replay(self, make_algorithm: Maker) -> None:
        """Answered from what is known already, a run is the same, and pays only for the rest."""
        full = _run(_toy(2), make_algorithm, self.budget)
        known = len(full.X) // 2
        problem = _toy(2)
        for x, evaluation in zip(full.X[:known], full.found[:known], strict=True):
            problem.remember(x, evaluation)
        again = _run(problem, make_algorithm, self.budget)
        assert np.array_equal(full.X, again.X)
        assert np.array_equal(full.result.F, again.result.F)
        assert all(again.hits[:known])

    def test_one_object_runs_many_times(self, make_algorithm: Maker) -> None:
        """Nothing of a run stays behind in the algorithm, its class or its problem."""
        problem = _toy(2)
        algorithm = make_algorithm(problem)
        state = problem.xl.copy(), problem.xu.copy()
        first, second = (_run(problem, lambda _: algorithm, self.budget) for _ in range(2))
        assert np.array_equal(first.X, second.X)
        assert np.array_equal(problem.xl, state[0])
        assert np.array_equal(problem.xu, state[1])

    @pytest.mark.parametrize("objectives", [1, 2, 4])
    def test_the_result_is_the_front(
        self, make_algorithm: Maker, traits: AlgorithmTraits, objectives: int
    ) -> None:
        """What is returned was evaluated and is not dominated; for 1, 2 and 4 objectives."""
        problem = _toy(objectives)
        if objectives in traits.refused:
            with pytest.raises(ConfigurationError, match=r"objective|task"):
                _run(problem, make_algorithm, self.budget)
            return
        run = _run(problem, make_algorithm, self.budget)
        self._check_front(problem, run, traits, np.ones(len(run.X), bool))

    def test_constraints_are_kept(self, make_algorithm: Maker, traits: AlgorithmTraits) -> None:
        """Only candidates that meet the constraints are returned, or constraints are refused."""
        limit = [Constraint("a", at_least=0.45), Constraint("a", at_most=0.95)]
        problem = _toy(2, constraints=limit)
        if not traits.constraints:
            with pytest.raises(ConfigurationError, match="constraints"):
                _run(problem, make_algorithm, self.budget)
            return
        run = _run(problem, make_algorithm, self.budget)
        feasible = problem.feasible(run.found)
        assert feasible.any(), "the toy problem has feasible merges, but none was found"
        self._check_front(problem, run, traits, feasible)

    @staticmethod
    def _check_front(
        problem: MergeProblem, run: _Run, traits: AlgorithmTraits, usable: NDArray[np.bool_]
    ) -> None:
        from moofusion.comparison.quality import nondominated

        known = {
            x.tobytes(): f
            for x, f, ok in zip(run.X, problem.objectives(run.found), usable, strict=True)
            if ok
        }
        X, F = np.atleast_2d(run.result.X), np.atleast_2d(run.result.F)
        for x, f in zip(X, F, strict=True):
            assert x.tobytes() in known, "a returned candidate was not evaluated, or is infeasible"
            assert np.array_equal(f, known[x.tobytes()])
        found = {tuple(f) for f in F}
        rows = np.array(sorted(found))
        assert nondominated(rows).all(), "a returned candidate is dominated by another"
        if traits.archive:
            everything = np.array(list(known.values()))
            assert found == {tuple(f) for f in everything[nondominated(everything)]}


def _toy(objectives: int, **options: Any) -> MergeProblem:
    names = "abcd"[: max(objectives, 2)]
    tasks = None if objectives > 1 else ["a"]
    return toy_problem(tuple(names), tasks, device="cpu", **options)


def _run(problem: MergeProblem, make: Maker, budget: int, seed: int = 1) -> _Run:
    run = _Run()
    problem.observers.append(run.record)
    try:
        run.result = minimize(problem, make(problem), ("n_eval", budget), seed=seed)
    finally:
        problem.observers.remove(run.record)
    return run


def _global_states() -> tuple[Any, ...]:
    numpy = np.random.get_state(legacy=False)
    state: Any = numpy["state"]
    return (
        random.getstate(),
        state["key"].tobytes(),
        state["pos"],
        bytes(torch.get_rng_state().numpy()),
    )


class _global_seeds:  # noqa: N801
    """Other seeds of the global generators within a ``with`` block."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)

    def __exit__(self, *unused: object) -> None:
        random.setstate(self.before[0])
        np.random.set_state(self.before[1])
        torch.set_rng_state(self.before[2])
