"""A run that is killed in the middle of its training goes on from there, bit for bit."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from moofusion.algorithms import ParetoRouter
from moofusion.algorithms.storage import read_state, write_state
from moofusion.comparison import Study, StudyData, search
from moofusion.problems import MergeProblem

SPACE = {"kind": "module-wise", "lower": -5.0, "upper": 6.0}
STEPS = 80
METHODS = {
    "pwemoe": f"pwemoe:routed=all,scalarization=epo,steps={STEPS},n_points=3",
    "scalarization": f"scalarization:method=epo,n_rays=2,steps={STEPS}",
}
CHILD = """
import os, signal, sys
sys.path[:0] = {folders!r}
import tiny
from moofusion.comparison import Study
from moofusion.problems import MergeProblem
from test_killed_training import SPACE

real, calls = MergeProblem.losses_and_grads, []

def killed(*arguments, **options):
    calls.append(1)
    if len(calls) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

MergeProblem.losses_and_grads = killed
problem = tiny.net_problem(("a", "b"), space=SPACE)
Study(problem, [{method!r}], seeds=[5], store={path!r}, controls=False, **{budget!r}).run()
"""


def _kill(method, path, *, at, budget):
    """Run a study in a process of its own, which kills itself at the given gradient."""
    folders = [os.path.dirname(__file__), os.path.dirname(tiny.__file__)]
    code = CHILD.format(folders=folders, method=method, path=str(path), at=at, budget=budget)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def _study(method, path, budget):
    problem = tiny.net_problem(("a", "b"), space=SPACE)
    return Study(problem, [method], seeds=[5], store=path, controls=False, **budget)


@pytest.fixture
def gradients(monkeypatch):
    """Counts gradients that are really taken; `gradients.stop_at` interrupts at one."""
    real, counter = MergeProblem.losses_and_grads, SimpleNamespace(taken=0, stop_at=0)

    def counted(*arguments, **options):
        counter.taken += 1
        if counter.taken == counter.stop_at:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(MergeProblem, "losses_and_grads", counted)
    return counter


def _log(path):
    (run,) = StudyData.read(path).runs
    assert run.cell.status == "done"
    tested = {i: row.tolist() for i, row in run.test.items()}
    return run.X.tobytes(), run.values.tobytes(), run.cost.tolist(), tested, run.final.tolist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Undisturbed runs of every method. Read only."""
    found = {}
    for name, method in METHODS.items():
        found[name] = tmp_path_factory.mktemp("whole") / "study.db"
        _study(method, found[name], {"evaluations": 3}).run()
    return found


# The scalarization is killed in its second ray.
@pytest.mark.parametrize(
    ("name", "at", "kept", "total"),
    [("pwemoe", 67, 50, STEPS), ("scalarization", STEPS + 67, STEPS + 50, 2 * STEPS)],
)
def test_a_killed_training_goes_on_and_pays_nothing_twice(
    whole, tmp_path, gradients, name, at, kept, total
):
    path, budget = tmp_path / "study.db", {"evaluations": 3}
    _kill(METHODS[name], path, at=at, budget=budget)
    assert [r.cell.status for r in StudyData.read(path).runs] == ["pending"]
    files = os.listdir(f"{path}-files")
    assert [f.endswith("-training.safetensors") for f in files] == [True]
    _study(METHODS[name], path, budget).run()
    assert gradients.taken == total - kept
    assert _log(path) == _log(whole[name])
    costs = _log(path)[2]
    assert sum(costs) == total * 2 * 16 * 3 + len(costs) * 2 * tiny.SIZES["search"]
    assert [f for f in os.listdir(f"{path}-files") if "training" in f] == []


def test_a_killed_training_keeps_to_its_budget_of_cost(tmp_path):
    method = "pwemoe:routed=all,n_points=3"
    budget = {"cost": 96 * 80.0 + 300}
    _kill(method, tmp_path / "broken.db", at=70, budget=budget)
    for path in (tmp_path / "broken.db", tmp_path / "whole.db"):
        _study(method, path, budget).run()
    assert _log(tmp_path / "broken.db") == _log(tmp_path / "whole.db")
    assert sum(_log(tmp_path / "broken.db")[2]) <= budget["cost"]


def test_the_clock_of_a_run_counts_what_passed_before_it_was_killed(tmp_path, gradients):
    path, budget = tmp_path / "study.db", {"evaluations": 3}
    gradients.stop_at = 67
    with pytest.raises(KeyboardInterrupt):
        _study(METHODS["pwemoe"], path, budget).run()
    (name,) = (tmp_path / "study.db-files").iterdir()
    arrays, description = read_state(name, "router-training")
    assert 0 < description["seconds"] < 60
    write_state(name, arrays, description | {"seconds": 1000.0})
    _study(METHODS["pwemoe"], path, budget).run()
    (run,) = StudyData.read(path).runs
    assert 1000 < run.elapsed[0] < 1060
    assert 1000 < run.device_seconds[0] < 1060


def test_routers_of_runs_are_kept(whole):
    (file,) = (whole["pwemoe"].parent / "study.db-files").iterdir()
    problem = tiny.net_problem(("a", "b"), space=SPACE)
    router = ParetoRouter.load(file, problem)
    (run,) = StudyData.read(whole["pwemoe"]).runs
    assert (router.coefficients([0.5, 0.5]).ravel() == run.X[1]).all()
    assert list((whole["scalarization"].parent / "study.db-files").iterdir()) == []


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_search_resumes_its_training_too(name, tmp_path, gradients):
    options = {"evaluations": 3, "seed": 5}
    gradients.stop_at = 70
    with pytest.raises(KeyboardInterrupt):
        search(
            tiny.net_problem(("a", "b"), space=SPACE),
            METHODS[name],
            out=tmp_path / "run",
            **options,
        )
    problem = tiny.net_problem(("a", "b"), space=SPACE)
    found = search(problem, METHODS[name], out=tmp_path / "run", resume=True, **options)
    total = STEPS * (1 if name == "pwemoe" else 2)
    assert gradients.taken == 70 + total - 50
    other = search(tiny.net_problem(("a", "b"), space=SPACE), METHODS[name], **options)
    assert np.array_equal(found.front.X, other.front.X)
    assert (tmp_path / "run" / "router.safetensors").exists() == (name == "pwemoe")
