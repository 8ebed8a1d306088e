"""The problem on predictions: oriented as the real one, kept near the samples, reproducible."""

import copy
import pickle

import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.optimize import minimize

from moofusion.errors import ConfigurationError
from moofusion.problems import SurrogateProblem
from moofusion.surrogates import MergeSurrogate, Target, n_parameters
from moofusion.tasks import Metric
from moofusion.tasks.base import ACCURACY

BOUNDS = {"xl": np.full(2, -2.0), "xu": np.full(2, 3.0)}
OUTPUTS = ["F", "G", "std"]


@pytest.fixture
def surrogate(rng):
    # The best of both objectives lies outside the samples: without the constraint the search goes.
    X = rng.uniform(size=(25, 2))
    z = np.stack([X @ [1.0, 0.2] - 1, X @ [0.3, -1.0] + X[:, 0] ** 2], axis=1)
    values = np.stack([1 / (1 + np.exp(-z[:, 0])), np.exp(z[:, 1])], axis=1)
    targets = [Target.of("a", ACCURACY, samples=300), Target.of("b", Metric("loss", "min"))]
    return MergeSurrogate.fit(X, values, targets, **BOUNDS)


def test_objectives_are_those_of_the_real_problem(shared_problem, rng):
    n = shared_problem.n_var
    X = rng.uniform(0, 1, (n_parameters(n), n))
    F = shared_problem.evaluate(X, return_values_of=["F"])
    # As many points as parameters on the identity: the fit passes through all of them.
    targets = [Target.of(name, ACCURACY, link="identity") for name in "abc"]
    surrogate = MergeSurrogate.fit(
        X, 1 - F, targets, space=shared_problem.space, xl=shared_problem.xl, xu=shared_problem.xu
    )
    problem = surrogate.problem()
    np.testing.assert_allclose(problem.evaluate(X, return_values_of=["F"]), F, atol=1e-6)
    assert np.ptp(F, axis=0).min() > 0.01
    assert (problem.n_var, problem.n_obj) == (n, shared_problem.n_obj)
    assert problem.space is shared_problem.space
    np.testing.assert_array_equal([problem.xl, problem.xu], [shared_problem.xl, shared_problem.xu])


def test_the_constraint_keeps_the_search_among_the_samples(surrogate):
    settings = {"termination": ("n_gen", 25), "seed": 1}
    kept = minimize(SurrogateProblem(surrogate), NSGA2(pop_size=40), **settings)
    free = minimize(SurrogateProblem(surrogate, support=False), NSGA2(pop_size=40), **settings)
    assert len(kept.X) > 0
    assert (surrogate.support.violation(kept.X) <= 0).all()
    assert (surrogate.support.violation(free.X) > 0).mean() > 0.5
    assert SurrogateProblem(surrogate, support=False).n_ieq_constr == 0


def test_predicted_constraints_follow_the_support(rng):
    X = rng.uniform(size=(20, 2))
    targets = [Target.of("a", Metric("y", "min"))]
    limit = X.sum(axis=1, keepdims=True) - 1
    surrogate = MergeSurrogate.fit(X, X[:, :1] ** 2, targets, constraints=limit)
    problem = surrogate.problem()
    assert problem.n_ieq_constr == 2
    G = problem.evaluate(X, return_values_of=["G"])
    np.testing.assert_allclose(G[:, 0], surrogate.support.violation(X))
    np.testing.assert_allclose(G[:, 1:], limit, atol=1e-6)


def test_equal_seeds_give_equal_fronts(surrogate):
    one, other = (
        minimize(SurrogateProblem(surrogate), NSGA2(pop_size=24), ("n_gen", 8), seed=3)
        for _ in range(2)
    )
    different = minimize(SurrogateProblem(surrogate), NSGA2(pop_size=24), ("n_gen", 8), seed=4)
    np.testing.assert_array_equal(one.X, other.X)
    np.testing.assert_array_equal(one.F, other.F)
    assert not np.array_equal(one.pop.get("X"), different.pop.get("X"))
    assert one.pop.get("std").shape == (24, 2)


def test_one_at_a_time_gives_the_same(surrogate, rng):
    X = rng.uniform(-0.5, 1.5, (7, 2))
    many = SurrogateProblem(surrogate).evaluate(X, return_values_of=OUTPUTS)
    single = SurrogateProblem(surrogate, elementwise=True).evaluate(X, return_values_of=OUTPUTS)
    for a, b in zip(many, single, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("elementwise", [False, True])
def test_gradients_are_derivatives_of_the_objectives(elementwise, surrogate, rng):
    problem = SurrogateProblem(surrogate, elementwise=elementwise)
    X, h = rng.uniform(0.1, 0.9, (5, 2)), 1e-6
    dF = problem.evaluate(X, return_values_of=["dF"])
    assert dF.shape == (5, 2, 2)
    for axis, step in enumerate(h * np.eye(2)):
        up, down = (problem.evaluate(X + s * step, return_values_of=["F"]) for s in (1, -1))
        np.testing.assert_allclose(dF[:, :, axis], (up - down) / (2 * h), atol=1e-6)
    assert np.abs(dF).max() > 0.1


def test_copies_are_cheap_and_equal(surrogate, rng):
    problem = SurrogateProblem(surrogate, optimism=0.5)
    X = rng.uniform(size=(9, 2))
    twin = copy.deepcopy(problem)
    assert twin is not problem
    assert twin.surrogate is surrogate
    stored = pickle.dumps(problem)
    assert len(stored) < 50_000
    expected = problem.evaluate(X, return_values_of=OUTPUTS)
    for other in (twin, pickle.loads(stored)):
        found = other.evaluate(X, return_values_of=OUTPUTS)
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b)


def test_optimism_lowers_objectives_and_must_be_finite(surrogate, rng):
    X = rng.uniform(size=(9, 2))
    plain = SurrogateProblem(surrogate).evaluate(X, return_values_of=["F"])
    hopeful = SurrogateProblem(surrogate, optimism=1.0).evaluate(X, return_values_of=["F"])
    assert (hopeful[:, 0] < plain[:, 0]).all()
    with pytest.raises(ConfigurationError, match="optimism must be a finite number, got nan"):
        SurrogateProblem(surrogate, optimism=float("nan"))
