"""Whether fronts answer to preferences."""

import numpy as np
import pytest
import tiny
from pymoo.optimize import minimize
from scipy.stats import spearmanr

from moofusion.algorithms import PWEMoE, Scalarization
from moofusion.comparison.adherence import adherence, measure_adherence
from moofusion.errors import ConfigurationError
from moofusion.problems import MergeProblem
from moofusion.tasks import FunctionTask


def test_rank_correlations_are_scipys(rng):
    R, losses = rng.dirichlet(np.ones(3), 30), rng.uniform(0.1, 2, (30, 3))
    found = adherence(R, losses, "abc")
    for j in range(3):
        assert found.spearman[j] == pytest.approx(spearmanr(R[:, j], losses[:, j]).statistic)
    assert found.spread == pytest.approx(losses.max(axis=0) - losses.min(axis=0))


def test_a_perfect_front_and_one_that_does_not_answer():
    R = np.array([[0.0, 1.0], [0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    perfect = adherence(R, 1 / np.maximum(R, 0.1))
    assert (perfect.spearman < -0.9).all()
    assert np.isnan(perfect.non_uniformity).tolist() == [True, False, False, True]
    assert perfect.non_uniformity[1:3] == pytest.approx(0, abs=1e-12)
    deaf = adherence(R, np.ones((4, 2)))
    assert np.isnan(deaf.spearman).all()
    assert (deaf.spread == 0).all()
    assert deaf.non_uniformity[1] > 0.1


def test_trained_methods_answer_to_the_preference():
    space = {"kind": "module-wise", "lower": -5.0, "upper": 6.0}
    problem = tiny.net_problem(("a", "b"), space=space)
    for algorithm in (
        PWEMoE(routed="all", steps=200, lr=3e-2, n_points=5),
        Scalarization(n_rays=5, steps=40),
    ):
        done = minimize(problem, algorithm, seed=1).algorithm
        found = measure_adherence(problem, done.X, done.preferences)
        assert (found.spearman < -0.5).all()
        assert (found.spread > 0.05).all()
        assert found.tasks == ("a", "b")
        table = found.table()
        assert "| a | -" in table
        assert "corners left out" in table


def test_mistakes():
    with pytest.raises(ConfigurationError, match=r"got \(2, 2\) for \(3, 2\)"):
        adherence(np.ones((3, 2)), np.ones((2, 2)))
    with pytest.raises(ConfigurationError, match="finite losses"):
        adherence(np.ones((1, 2)), np.full((1, 2), np.nan))
    pool = tiny.net_pool(("a", "b"))
    size = FunctionTask("size", lambda m: 1.0, worst=1.0)
    problem = MergeProblem(pool, [*tiny.net_tasks(pool), size])
    with pytest.raises(ConfigurationError, match="'size' measures no loss"):
        measure_adherence(problem, np.zeros((1, 2)), np.ones((1, 3)) / 3)
