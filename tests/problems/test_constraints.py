"""Constraints on measured metrics."""

import numpy as np
import pytest
import tiny
from pymoo.optimize import minimize

from moofusion.algorithms import get_algorithm
from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.problems import Constraint

X = np.array([[0.2, 0.3, 0.4], [0.0, 1.0, 0.0], [0.9, 0.1, 0.5], [0.0, 0.0, 0.0]])


def _violations(*constraints):
    problem = tiny.net_problem(constraints=constraints)
    assert problem.n_ieq_constr == len(constraints)
    F, G = problem.evaluate(X)
    return problem, F, G


def _metrics(problem, task, metric):
    j = problem.task_names.index(task)
    return np.array([problem.record(x).measurements[j].metrics[metric] for x in X])


def test_a_lower_bound_on_the_objective_of_a_task():
    _, F, G = _violations(Constraint("b", at_least=0.7))
    assert G[:, 0] == pytest.approx(0.7 - (1 - F[:, 1]))
    assert (G[:, 0] > 0).any()
    assert (G[:, 0] <= 0).any()


def test_an_upper_bound_on_another_metric():
    problem, _, G = _violations(Constraint("c", at_most=1.1, metric="loss"))
    assert G[:, 0] == pytest.approx(_metrics(problem, "c", "loss") - 1.1)


@pytest.mark.parametrize("model", ["base", "a", "c"])
def test_a_bound_relative_to_a_model(model):
    problem, F, G = _violations(Constraint("a", at_least=0.95, relative_to=model))
    own = 1 - problem.anchors().F[("base", "a", "b", "c").index(model), 0]
    assert G[:, 0] == pytest.approx(0.95 * own - (1 - F[:, 0]))


def test_the_model_itself_meets_a_bound_relative_to_it():
    _, _, G = _violations(
        Constraint("a", at_least=1.0, relative_to="base"),
        Constraint("c", at_most=1.0, metric="loss", relative_to="b"),
    )
    assert G[3, 0] == pytest.approx(0)
    assert G[1, 1] == pytest.approx(0, abs=1e-6)


def test_several_constraints_have_a_column_each():
    limits = [Constraint("a", at_least=0.5), Constraint("b", at_least=0.6)]
    _, F, G = _violations(*limits)
    assert G == pytest.approx(np.array([0.5, 0.6]) - (1 - F[:, :2]))


def _search(name, bound, seed=1):
    problem = tiny.net_problem(constraints=[Constraint("c", at_least=bound)])
    return minimize(
        problem, get_algorithm(f"{name}:pop_size=12", problem), ("n_eval", 60), seed=seed
    )


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "unsga3"])
def test_searches_return_only_what_is_feasible(name):
    result = _search(name, 0.7)
    assert len(result.F) > 0
    assert (1 - result.F[:, 2] >= 0.7).all()


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "unsga3"])
def test_equal_seeds_give_equal_constrained_runs(name):
    runs = [_search(name, 0.7) for _ in range(3)]
    assert all((run.X.shape == runs[0].X.shape) and (run.X == runs[0].X).all() for run in runs)
    assert (runs[0].pop.get("X") == runs[2].pop.get("X")).all()


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "random"])
def test_a_bound_that_nothing_meets_leaves_no_result(name):
    problem = tiny.net_problem(constraints=[Constraint("c", at_least=1.5)])
    result = minimize(problem, get_algorithm(name, problem), ("n_eval", 40), seed=1)
    assert result.F is None
    assert (result.pop.get("G") > 0).all()


@pytest.mark.parametrize("bounds", [{}, {"at_least": 0.5, "at_most": 0.9}])
def test_exactly_one_bound_must_be_given(bounds):
    with pytest.raises(ConfigurationError, match="'a': give exactly one of at_least and at_most"):
        Constraint("a", **bounds)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Constraint("d", at_least=0.5), "unknown task in a constraint 'd'"),
        (Constraint("a", at_least=0.5, metric="f1"), "metric of task 'a' 'f1'"),
        (Constraint("a", at_least=0.5, relative_to="bse"), "'bse'; did you mean 'base'"),
    ],
)
def test_names_in_a_constraint_are_checked_at_once(constraint, message):
    with pytest.raises(UnknownNameError, match=message):
        tiny.net_problem(constraints=[constraint])
