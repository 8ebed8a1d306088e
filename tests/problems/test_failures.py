"""Candidates that cannot be measured: recorded, finite, the worst, and never silent."""

import numpy as np
import pytest
import tiny
import torch
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.optimize import minimize
from pymoo.util.ref_dirs import get_reference_directions

from moofusion.errors import ConfigurationError, EvaluationWarning
from moofusion.problems import Constraint, MergeProblem
from moofusion.tasks import FunctionTask
from moofusion.weights import ModelPool

#: Coefficients up to 1e30 overflow single precision within the model.
WIDE = {"kind": "task-wise", "upper": 1e30}
HEALTHY = np.array([0.2, 0.3, 0.4])
BROKEN = np.array([1e30, 1e30, 1e30])
MESSAGE = "candidate gave NaN or infinite metrics on the search split"


def _population(problem, X):
    return Evaluator().eval(problem, Population.new(X=X))


def test_a_failed_candidate_is_the_worst_in_all_objectives_and_says_so():
    problem = tiny.net_problem(space=WIDE)
    with pytest.warns(EvaluationWarning, match=MESSAGE):
        pop = _population(problem, BROKEN[None])
    assert pop.get("F").tolist() == [[1, 1, 1]]
    assert pop.get("failed").tolist() == [1]
    assert pop.get("cost").tolist() == [3 * tiny.SIZES["search"]]


def test_healthy_candidates_beside_it_are_unharmed():
    problem = tiny.net_problem(space=WIDE)
    with pytest.warns(EvaluationWarning):
        pop = _population(problem, np.stack([HEALTHY, BROKEN, HEALTHY / 2]))
    assert pop.get("failed").tolist() == [0, 1, 0]
    expected = tiny.net_problem().evaluate(np.stack([HEALTHY, HEALTHY / 2]))
    assert (pop.get("F")[[0, 2]] == expected).all()
    assert (pop.get("F")[1] == 1).all()


def test_a_failure_in_one_task_fails_the_candidate():
    pool = tiny.net_pool()
    picky = FunctionTask(
        "picky", lambda m: float("nan") if m.head.bias.sum() > 5 else 0.5, best=1.0, worst=1.0
    )
    problem = MergeProblem(pool, [*tiny.net_tasks(pool, ["a"]), picky], space={**WIDE, "upper": 99})
    expert = next(e for e in np.vstack([np.eye(3), -np.eye(3)]) if _bias(pool, 40 * e) > 5)
    assert problem.record(HEALTHY / 100).failed is False
    with pytest.warns(EvaluationWarning):
        F = problem.evaluate(40 * expert)
    assert F.tolist() == [1, 1]


def _bias(pool, row):
    start = pool.base.head.bias.detach()
    moves = [e.head.bias.detach() - start for e in pool.experts.values()]
    return float((start + sum(w * m for w, m in zip(row, moves, strict=True))).sum())


def test_a_decision_vector_that_is_not_a_number():
    problem = tiny.net_problem()
    with pytest.warns(EvaluationWarning):
        F = problem.evaluate(np.array([np.nan, 0.2, 0.2]))
    assert F.tolist() == [1, 1, 1]


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_without_a_natural_worst_it_lies_beyond_every_anchor(value):
    pool = tiny.net_pool()
    tasks = [
        FunctionTask(
            name,
            lambda m, j=j: value if m.head.weight.abs().max() > 1e6 else m.head.bias[j].item(),
            direction=direction,
        )
        for j, (name, direction) in enumerate([("low", "min"), ("high", "max")])
    ]
    problem = MergeProblem(pool, tasks, space=WIDE)
    with pytest.warns(EvaluationWarning):
        F = problem.evaluate(np.stack([HEALTHY, BROKEN]))
    anchors = problem.anchors()
    assert np.isfinite(F).all()
    assert F[1] == pytest.approx(anchors.nadir + 10 * (anchors.nadir - anchors.ideal))
    assert (F[1] > F[0]).all()


def test_losses_that_overflow_stay_finite():
    problem = tiny.net_problem(objective="loss", space=WIDE)
    with pytest.warns(EvaluationWarning):
        F = problem.evaluate(np.stack([BROKEN, HEALTHY]))
    assert np.isfinite(F).all()
    assert (F[0] > problem.anchors().nadir).all()


def test_a_failure_is_cached_with_its_flag(recwarn):
    problem = tiny.net_problem(space=WIDE)
    problem.evaluate(BROKEN)
    assert len([w for w in recwarn if w.category is EvaluationWarning]) == 1
    pop = _population(problem, BROKEN[None])
    assert pop.get("failed").tolist() == [1]
    assert pop.get("cost").tolist() == [0]
    assert len([w for w in recwarn if w.category is EvaluationWarning]) == 1


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
@pytest.mark.filterwarnings("ignore::moofusion.errors.EvaluationWarning")
def test_searches_survive_failures(name):
    """Half of the box overflows; the front must consist of healthy models all the same."""
    box = {"kind": "task-wise", "lower": -1e25, "upper": 1e25}
    problem = tiny.net_problem(space=box)
    X = np.vstack([np.random.default_rng(0).uniform(0, 0.5, (6, 3)), np.full((6, 3), 1e25)])
    directions = get_reference_directions("das-dennis", 3, n_partitions=3)
    algorithm = {
        "nsga2": lambda: NSGA2(pop_size=12, sampling=X),
        "nsga3": lambda: NSGA3(directions, pop_size=12, sampling=X),
    }[name]()
    result = minimize(problem, algorithm, ("n_eval", 48), seed=1)
    assert np.isfinite(result.pop.get("F")).all()
    assert (result.F < 1).all()
    assert (result.opt.get("failed") == 0).all()


def test_a_failed_candidate_violates_every_constraint():
    limits = [Constraint("a", at_least=0.0), Constraint("b", at_most=2.0, metric="loss")]
    problem = tiny.net_problem(space=WIDE, constraints=limits)
    with pytest.warns(EvaluationWarning):
        _, G = problem.evaluate(BROKEN)
    assert (G > 0).all()
    assert np.isfinite(G).all()


def test_a_failed_candidate_does_not_spoil_the_next():
    problem = tiny.net_problem(space=WIDE)
    with pytest.warns(EvaluationWarning):
        problem.evaluate(BROKEN)
    assert (problem.evaluate(HEALTHY) == tiny.net_problem().evaluate(HEALTHY)).all()


def test_an_expert_that_cannot_be_measured_is_named():
    """Its weights are finite, but what it computes is not."""
    expert = tiny.net(1)
    with torch.no_grad():
        expert.head.weight.fill_(3e38)
    pool = ModelPool(tiny.net(), {"a": tiny.net(2), "huge": expert})
    problem = MergeProblem(pool, tiny.net_tasks(tiny.net_pool(), ["a"]))
    with pytest.raises(ConfigurationError, match="the huge model itself gives NaN or infinite"):
        problem.anchors()
