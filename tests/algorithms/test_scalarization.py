"""Scalarization: each ray descends, within bounds and budget, and follows its preference."""

import numpy as np
import pytest
import tiny
from pymoo.optimize import minimize

from moofusion.algorithms import Scalarization, get_algorithm
from moofusion.errors import ConfigurationError

SPACES = {
    "task-wise": "task-wise",
    "module-wise": "module-wise",
    "simplex": {"kind": "simplex", "granularity": "block"},
    "spline": {"kind": "depth-spline", "controls": 3},
    "mlp": {"kind": "block-wise", "select": "mlp"},
}


def _run(problem, method="ls", termination=("n_eval", 50), seed=1, **options):
    options = {"n_rays": 3, "steps": 40, "batch_size": 20, "lr": 3e-2} | options
    return minimize(problem, Scalarization(method, **options), termination, seed=seed).algorithm


def _train_losses(problem, X):
    return np.array([problem.losses_and_grads(x)[0] for x in X])


@pytest.mark.parametrize("space", SPACES)
def test_every_ray_ends_lower_than_task_arithmetic(space):
    problem = tiny.net_problem(("a", "b"), space=SPACES[space])
    algorithm = _run(problem)
    start = problem.space.uniform(np.full((1, 2), 0.3))
    losses = _train_losses(problem, np.vstack([start, algorithm.X]))
    for r, found in zip(algorithm.preferences, losses[1:], strict=True):
        assert r @ found < r @ losses[0]
    assert (algorithm.X >= problem.xl).all()
    assert (algorithm.X <= problem.xu).all()


@pytest.mark.parametrize("method", ["ls", "tchebycheff", "smooth_tchebycheff", "epo", "mgda"])
def test_losses_follow_the_preference(method):
    problem = tiny.net_problem(("a", "b"), space="module-wise")
    algorithm = _run(problem, method, steps=80)
    losses = _train_losses(problem, algorithm.X)
    assert algorithm.preferences[:, 0].tolist() == [0, 0.5, 1]
    assert losses[0, 1] < losses[2, 1]
    assert losses[2, 0] < losses[0, 0]
    assert algorithm.fallbacks == 0
    assert algorithm.losses.shape == (3, 80, 2)


def test_rays_are_evaluated_one_by_one_like_any_candidates():
    problem = tiny.net_problem(("a", "b"))
    seen = []
    problem.observers.append(lambda x, evaluation, hit: seen.append(x))
    algorithm = _run(problem, n_rays=5)
    assert (np.array(seen) == algorithm.X).all()
    assert algorithm.evaluator.n_eval == 5


def test_equal_seeds_give_equal_runs():
    first, second, other = (_run(tiny.net_problem(), seed=s).X for s in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()


def test_the_budget_sets_the_number_of_rays():
    problem = tiny.net_problem(("a", "b"))
    algorithm = _run(problem, n_rays=None, steps=2, termination=("n_eval", 4))
    assert algorithm.evaluator.n_eval == len(algorithm.preferences) == 4
    algorithm = _run(problem, n_rays=None, steps=2, termination=("n_eval", 400))
    assert algorithm.evaluator.n_eval == 11


def test_neighbours_start_where_a_ray_ended():
    problem = tiny.net_problem(("a", "b"))
    algorithm = _run(problem, steps=1, lr=1e-9)
    assert algorithm.X == pytest.approx(0.3, abs=1e-6)
    cold = _run(problem, steps=15)
    assert np.abs(cold.X[1] - cold.X[0]).max() < np.abs(cold.X[1] - 0.3).max()


def test_by_name(shared_problem):
    made = get_algorithm("scalarization:method=epo,n_rays=4,steps=9", shared_problem)
    assert (made.method, made.n_rays, made.steps) == ("epo", 4, 9)


def test_mistakes():
    with pytest.raises(ConfigurationError, match="n_rays must be positive"):
        Scalarization(n_rays=0)
    with pytest.raises(ConfigurationError, match="steps must be positive"):
        Scalarization(steps=0)
