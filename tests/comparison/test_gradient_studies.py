"""Gradient methods in a study: what they pay is on the cost axis, within the budget."""

import pytest
import tiny

from moofusion.comparison import Study

SPACE = {"kind": "module-wise", "lower": -5.0, "upper": 6.0}
METHODS = (
    "pwemoe:routed=all,n_points=3",
    "constant:routed=all",
    "scalarization:n_rays=3",
    "scaled_soup",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "study.db"
    problem = tiny.net_problem(("a", "b"), space=SPACE)
    study = Study(problem, METHODS, seeds=1, cost=6000, store=path)
    study.run()
    return {run.cell.algorithm.partition(":")[0]: run for run in study.results().runs}


def test_gradients_are_charged_and_the_budget_is_kept(runs):
    one = 2 * tiny.SIZES["search"]
    for name, points in (("pwemoe", 3), ("constant", 1), ("scalarization", 3)):
        run = runs[name]
        assert run.cell.status == "done"
        assert len(run.X) == points
        assert 5500 < run.cost.sum() <= 6000
        assert run.cost.sum() > 10 * points * one  # far more than its evaluations
    assert len(runs["scaled_soup"].X) > 5


def test_runs_can_be_compared(runs):
    for run in runs.values():
        assert run.hypervolume("test") > 0
