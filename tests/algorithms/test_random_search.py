"""Random search, and the sampling that every algorithm starts from."""

import numpy as np
import pytest
import tiny
from pymoo.operators.sampling.rnd import FloatRandomSampling
from pymoo.optimize import minimize
from pymoo.problems import get_problem as pymoo_problem

from moofusion.algorithms import CoefficientSampling, RandomSearch
from moofusion.errors import ConfigurationError


def _run(problem, budget=105, seed=1, **options):
    seen = []
    problem.observers.append(lambda x, evaluation, hit: seen.append(x))
    result = minimize(problem, RandomSearch(**options), ("n_eval", budget), seed=seed)
    return result, np.array(seen)


@pytest.mark.parametrize("budget", [1, 19, 20, 21, 105])
def test_the_budget_is_met_exactly(budget):
    result, seen = _run(tiny.net_problem(), budget)
    assert len(seen) == result.algorithm.evaluator.n_eval == budget


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_the_size_of_batches_is_up_to_the_user(batch_size):
    _, seen = _run(tiny.net_problem(), 30, batch_size=batch_size)
    assert len(seen) == 30


def test_any_sampling_of_pymoo_may_be_used(problem):
    _, seen = _run(problem, sampling=FloatRandomSampling())
    # The sum of three uniform coefficients exceeds what merges usually are given.
    assert seen.sum(axis=1).max() > 1.5


def test_other_problems_can_be_searched_too():
    result = minimize(pymoo_problem("zdt1", n_var=5), RandomSearch(), ("n_eval", 50), seed=1)
    assert result.algorithm.evaluator.n_eval == 50
    assert result.X.shape[1] == 5


@pytest.mark.parametrize("size", [0, -1])
def test_batches_hold_something(size):
    with pytest.raises(ConfigurationError, match="batch_size must be positive"):
        RandomSearch(batch_size=size)


# --------------------------------------------------------------------------------- sampling


def _sample(problem, count=2000, seed=0, **options):
    sampling = CoefficientSampling(**options)
    pop = sampling.do(problem, count, random_state=np.random.default_rng(seed))
    return pop.get("X").astype(float)


def test_sums_are_moderate_and_directions_uniform(problem):
    X = _sample(problem)
    sums = X.sum(axis=1)
    assert X.min() >= 0
    assert sums.max() <= 1.5
    assert np.quantile(sums, [0.25, 0.5, 0.75]) == pytest.approx([0.36, 0.73, 1.08], abs=0.06)
    shares = X / sums[:, None]
    assert shares.mean(axis=0) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize("largest", [0.5, 3.0])
def test_the_largest_sum_is_up_to_the_user(problem, largest):
    sums = _sample(problem, largest_sum=largest).sum(axis=1)
    assert sums.max() <= largest
    assert sums.max() > 0.6 * min(largest, 3)


@pytest.mark.parametrize("space", ["block-wise", "depth-spline", "simplex"])
def test_samples_lie_within_the_bounds_of_any_space(space):
    problem = tiny.net_problem(space=space)
    X = _sample(problem, 300)
    assert X.shape == (300, problem.n_var)
    assert (problem.xl <= X).all()
    assert (problem.xu >= X).all()
    assert len(np.unique(X, axis=0)) == 300


def test_groups_mix_a_common_draw_with_their_own():
    problem = tiny.net_problem(space="block-wise")
    L = problem.space.coefficients(_sample(problem, 500))
    spread = L.std(axis=1).mean(axis=1)
    assert spread.min() < 0.02
    assert spread.max() > 0.15
    assert L.sum(axis=2).max() <= 1.5 + 1e-9


def test_samples_repeat_with_their_seed(problem):
    assert (_sample(problem, 50) == _sample(problem, 50)).all()
    assert (_sample(problem, 50) != _sample(problem, 50, seed=1)).any()


def test_problems_without_coefficients_are_sampled_uniformly():
    problem = pymoo_problem("dtlz2", n_var=6, n_obj=3)
    X = _sample(problem)
    assert X.mean(axis=0) == pytest.approx(0.5, abs=0.03)


def test_a_sum_must_be_positive():
    with pytest.raises(ConfigurationError, match="largest_sum must be positive"):
        CoefficientSampling(largest_sum=0)
