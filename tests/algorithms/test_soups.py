"""Grids and soups: proposals written down without a search."""

import numpy as np
import pytest
import tiny
from pymoo.optimize import minimize
from pymoo.problems import get_problem as pymoo_problem

from moofusion.algorithms import RewardedSoup, ScaledSoup, SimplexGrid, preference_grid
from moofusion.errors import ConfigurationError
from moofusion.problems import MergeProblem
from moofusion.tasks import FunctionTask


def _run(problem, algorithm, *termination, seed=1):
    seen = []
    problem.observers.append(lambda x, evaluation, hit: seen.append(x))
    result = minimize(problem, algorithm, *termination, seed=seed)
    assert result.algorithm.evaluator.n_eval == len(seen)
    return result, np.array(seen)


def _rows(X):
    return sorted(map(tuple, np.round(X, 9)))


# ------------------------------------------------------------------------------------ grid


def test_a_grid_covers_the_simplex_with_base_and_experts(problem):
    _, seen = _run(problem, SimplexGrid(n_points=35))
    assert len(seen) == 35
    rows = set(map(tuple, seen))
    assert {(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)} <= rows
    assert len(rows) == 35
    assert seen.min() >= 0
    assert seen.sum(axis=1).max() <= 1 + 1e-12
    assert seen * 4 == pytest.approx(np.round(seen * 4))


@pytest.mark.parametrize("total", [0.5, 0.9])
def test_a_grid_reaches_its_total_and_no_further(problem, total):
    _, seen = _run(problem, SimplexGrid(n_points=20, total=total))
    assert seen.sum(axis=1).max() == pytest.approx(total)
    assert (total, 0, 0) in set(map(tuple, seen))


@pytest.mark.parametrize("points", [1, 4, 30, 50])
def test_a_grid_never_exceeds_its_number_of_points(points):
    _, seen = _run(tiny.net_problem(), SimplexGrid(n_points=points))
    assert len(seen) <= max(points, 4)  # base and experts are the coarsest grid there is
    assert len(np.unique(seen, axis=0)) == len(seen)


def test_the_budget_sets_the_size(problem):
    _, seen = _run(problem, SimplexGrid(), ("n_eval", 35))
    assert len(seen) == 35


def test_a_budget_below_the_grid_is_spent_at_random_places():
    found = [
        _run(tiny.net_problem(), SimplexGrid(n_points=35), ("n_eval", 9), seed=seed)[1]
        for seen, seed in enumerate((1, 1, 2))
    ]
    assert [len(seen) for seen in found] == [9, 9, 9]
    assert (found[0] == found[1]).all()
    assert _rows(found[0]) != _rows(found[2])


def test_a_grid_in_another_space_has_the_same_models():
    _, seen = _run(tiny.net_problem(), SimplexGrid(n_points=20))
    blocks = tiny.net_problem(space="block-wise")
    _, wide = _run(blocks, SimplexGrid(n_points=20))
    assert wide.shape == (20, 15)
    assert _rows(wide[:, :3]) == _rows(seen)


# ------------------------------------------------------------------------------------ soup


def test_coefficients_are_the_preferences(problem):
    preferences = np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0, 2, 2]])
    _, seen = _run(problem, RewardedSoup(preferences=preferences))
    assert seen == pytest.approx(preferences / preferences.sum(axis=1, keepdims=True))


def test_a_scale_multiplies_them(problem):
    _, seen = _run(problem, RewardedSoup(preferences=[[0.5, 0.5, 0]], scale=0.8))
    assert seen == pytest.approx(np.array([[0.4, 0.4, 0]]))


def test_the_default_is_the_grid_of_preferences(problem):
    _, seen = _run(problem, RewardedSoup(n_points=66))
    expected = preference_grid(3, 66, rng=np.random.default_rng(0))
    assert _rows(seen) == _rows(expected)


def test_the_budget_sets_the_size_of_the_default(problem):
    _, seen = _run(problem, RewardedSoup(), ("n_eval", 66))
    assert len(seen) == 66


def test_preferences_follow_the_tasks_not_the_experts():
    problem = tiny.net_problem(tasks=["c", "a", "b"])
    _, seen = _run(problem, RewardedSoup(preferences=[[0.7, 0.2, 0.1]]))
    assert seen == pytest.approx(np.array([[0.2, 0.1, 0.7]]))


def test_preferences_find_the_expert_by_its_head():
    pool = tiny.net_pool()
    tasks = [
        FunctionTask("second", lambda m: 0.5, best=1.0, head="b"),
        FunctionTask("first", lambda m: 0.5, best=1.0, head="a"),
        FunctionTask("second too", lambda m: 0.5, best=1.0, head="b"),
    ]
    problem = MergeProblem(pool, tasks)
    _, seen = _run(problem, RewardedSoup(preferences=[[0.5, 0.3, 0.2]]))
    assert seen == pytest.approx(np.array([[0.3, 0.7, 0.0]]))


def test_experts_without_a_task_get_nothing():
    problem = tiny.net_problem(tasks=["c", "b"])
    _, seen = _run(problem, RewardedSoup(n_points=11))
    assert len(seen) == 11
    assert (seen[:, 0] == 0).all()
    assert seen.sum(axis=1) == pytest.approx(1)


def test_a_soup_in_another_space_has_the_same_models():
    problem = tiny.net_problem(space="depth-spline")
    _, seen = _run(problem, RewardedSoup(preferences=[[0.2, 0.3, 0.5]]))
    L = problem.space.coefficients(seen)[0]
    assert pytest.approx(np.tile([0.2, 0.3, 0.5], (len(L), 1))) == L


def test_order_is_random_but_repeats_with_the_seed():
    found = [
        _run(tiny.net_problem(), RewardedSoup(n_points=15), seed=seed)[1] for seed in (1, 1, 2)
    ]
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()
    assert _rows(found[0]) == _rows(found[2])


def test_more_tasks_than_three():
    problem = tiny.net_problem(experts=("a", "b", "c", "d", "e"))
    _, seen = _run(problem, RewardedSoup(n_points=30))
    assert len(seen) == 30
    assert {tuple(row) for row in np.eye(5)} <= set(map(tuple, seen))


# ---------------------------------------------------------------------------------- errors


def test_an_objective_without_an_expert_is_named():
    pool = tiny.net_pool()
    size = FunctionTask("size", lambda m: 0.5, best=1.0)
    problem = MergeProblem(pool, [*tiny.net_tasks(pool), size])
    with pytest.raises(ConfigurationError, match=r"task 'size' has none among \['a', 'b', 'c'\]"):
        minimize(problem, RewardedSoup(), ("n_eval", 10), seed=1)


@pytest.mark.parametrize("algorithm", [SimplexGrid, RewardedSoup])
def test_problems_without_coefficients_are_refused(algorithm):
    with pytest.raises(ConfigurationError, match="needs a MergeProblem, got ZDT1"):
        minimize(pymoo_problem("zdt1"), algorithm(), ("n_eval", 10), seed=1)


@pytest.mark.parametrize(
    "preferences", [[[0.5, 0.5]], [[0.5, -0.5, 1]], [[0, 0, 0]], [[np.nan, 1, 1]]]
)
def test_preferences_that_make_no_sense(problem, preferences):
    with pytest.raises(ConfigurationError, match="rows of 3 non-negative numbers"):
        minimize(problem, RewardedSoup(preferences=preferences), ("n_eval", 10), seed=1)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_scales_must_be_positive(value):
    with pytest.raises(ConfigurationError, match="scale must be positive"):
        RewardedSoup(scale=value)
    with pytest.raises(ConfigurationError, match="total must be positive"):
        SimplexGrid(total=value)


# ------------------------------------------------------------------ scaled soups


def test_scaled_soups_spend_their_budget_evenly_on_the_scales():
    problem = tiny.net_problem(("a", "b"), space={"kind": "task-wise", "upper": 2.0})
    algorithm = minimize(
        problem, ScaledSoup(scales=(0.5, 1.0, 1.5)), ("n_eval", 12), seed=1
    ).algorithm
    assert algorithm.evaluator.n_eval == 12
    L = np.round(algorithm._list, 9)
    assert sorted(L.sum(axis=1)) == pytest.approx([0.5] * 4 + [1.0] * 4 + [1.5] * 4)
    for scale in (0.5, 1.0, 1.5):
        rows = L[np.isclose(L.sum(axis=1), scale)]
        assert sorted(rows[:, 0] / scale) == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_a_scaled_soup_of_one_scale_is_a_rewarded_soup():
    problem = tiny.net_problem(("a", "b"))
    both = [
        minimize(problem, algorithm, ("n_eval", 9), seed=4).algorithm._list
        for algorithm in (ScaledSoup(scales=(0.8,)), RewardedSoup(scale=0.8))
    ]
    assert np.sort(both[0], axis=0) == pytest.approx(np.sort(both[1], axis=0))


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0), (float("nan"),)])
def test_scales_that_make_no_sense(scales):
    with pytest.raises(ConfigurationError, match="scales must be positive numbers"):
        ScaledSoup(scales=scales)
