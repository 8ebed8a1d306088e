"""Studies: the same table whatever happens on the way."""

from __future__ import annotations

import base64
import io
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tiny
from PIL import Image

from moofusion.algorithms import ProposalAlgorithm
from moofusion.comparison import Store, Study, StudyData, hypervolume
from moofusion.errors import ConfigurationError, RunError, UnknownNameError
from moofusion.problems import MergeProblem

ALGORITHMS = ("nsga2:pop_size=6", "random:batch_size=6", "soup")


@pytest.fixture
def study(tmp_path, problem):
    return Study(problem, ALGORITHMS, seeds=2, evaluations=20, store=tmp_path / "study.db")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The log and table of an undisturbed study."""
    path = tmp_path_factory.mktemp("expected") / "study.db"
    study = Study(tiny.net_problem(), ALGORITHMS, seeds=2, evaluations=20, store=path)
    study.run()
    return log(path), study.results().table()


def log(path):
    """Everything of a study that has to be repeatable: all but times and what was cached."""
    data = StudyData.read(path)
    return [
        (
            run.cell.algorithm,
            run.cell.seed,
            run.cell.status,
            run.X.tobytes(),
            run.values.tobytes(),
            run.cost.tobytes(),
            {i: v.tobytes() for i, v in run.test.items()},
            run.final.tobytes(),
        )
        for run in data.runs
    ]


def check(path, expected):
    assert log(path) == expected[0]
    assert StudyData.read(path).table().equals(expected[1])


def test_every_evaluation_is_a_row_with_its_values(study, problem):
    study.run()

    for run in study.results().runs:
        assert run.cell.status == "done"
        assert 1 <= len(run.X) <= 20
        metric = np.array(
            [[m.metrics["accuracy"] for m in problem.record(x).measurements] for x in run.X]
        )
        np.testing.assert_array_equal(run.values, metric)
        front = run.reported
        F = problem.normalize(1 - run.values[front])
        assert run.hypervolume("search") == hypervolume(F)
        tested = problem.normalize(problem.measured(run.X[front], split="test"), split="test")
        assert run.hypervolume("test") == pytest.approx(hypervolume(tested), abs=1e-12)


def test_running_again_pays_nothing(study, problem):
    study.run()
    paid = problem.counter.cost
    before = log(study.path)

    study.run()

    assert problem.counter.cost == paid
    assert log(study.path) == before


def test_equal_candidates_are_paid_once(study):
    # Random search and NSGA-II begin with the same draw from the same seed.
    study.run()

    with Store(study.path) as store:
        rows = [row for cell in store.cells() for row in store.evaluations(cell.id)]
    assert len({row["x"] for row in rows if row["paid"]}) == sum(row["paid"] > 0 for row in rows)
    first = {(row["cell"], row["x"]) for row in rows}
    assert sum(row["cost"] > 0 for row in rows) == len(first)
    assert sum(row["paid"] > 0 for row in rows) < len(first)


def test_seeds_are_shared_by_all_algorithms_and_stay_when_more_are_added(tmp_path, problem):
    two = Study(problem, ALGORITHMS, seeds=2, evaluations=5, store=tmp_path / "a.db")
    three = Study(problem, ALGORITHMS, seeds=3, evaluations=5, store=tmp_path / "b.db")

    assert three.seeds[:2] == two.seeds
    assert len(set(three.seeds)) == 3
    for algorithm in ALGORITHMS:
        assert {c.seed for c in two.cells() if c.algorithm == algorithm} == set(two.seeds)


SCRIPT = """
    import sys, time
    sys.path.insert(0, {tests!r})
    import tiny, torch
    from moofusion.comparison import Study
    torch.set_num_threads(1)
    problem = tiny.net_problem()
    measure = problem.evaluator.measure

    def slowly(L, split, **options):
        time.sleep(0.01)
        return measure(L, split, **options)

    problem.evaluator.measure = slowly
    Study(problem, {algorithms!r}, seeds=2, evaluations=20, store={path!r}).run()
"""


def test_kills_at_random_times_change_nothing(tmp_path, expected):
    path = tmp_path / "study.db"
    script = textwrap.dedent(SCRIPT).format(
        tests=os.path.dirname(tiny.__file__), algorithms=ALGORITHMS, path=str(path)
    )
    dice = random.Random(3)
    kills = 0
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", script])
        deadline = time.monotonic() + 60
        # Let it get going, so that the kill hits the work and not the imports.
        known = _rows(path)
        while process.poll() is None and _rows(path) == known and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            process.wait(timeout=dice.uniform(0.05, 0.6))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    # On a slow machine every attempt was killed; this one is left alone.
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
    assert kills >= 2
    check(path, expected)


def _rows(path):
    if not path.exists():
        return 0
    try:
        with Store(path, create=False) as store:
            return sum(cell.evaluations for cell in store.cells())
    except RunError:
        return 0


def lethal_problem(flag):
    """The same problem, except that the first worker to measure its 15th model dies of it."""
    pool = tiny.net_pool()
    tasks = tiny.net_tasks(pool)
    plain = tasks[0].evaluate
    home, count = os.getpid(), 0

    def evaluate(module, split):
        nonlocal count
        count += os.getpid() != home
        if count == 15 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(module, split)

    tasks[0].evaluate = evaluate
    return MergeProblem(pool, tasks)


def test_a_killed_worker_is_replaced(tmp_path, expected):
    problem = lethal_problem(tmp_path / "flag")
    study = Study(problem, ALGORITHMS, seeds=2, evaluations=20, store=tmp_path / "study.db")

    with pytest.warns(RuntimeWarning, match="a worker was lost"):
        study.run(n_jobs=2, backend="loky", threads=1)

    assert (tmp_path / "flag").exists()
    check(study.path, expected)


def test_dask_workers_give_the_same_table_and_one_may_die(tmp_path, expected):
    distributed = pytest.importorskip("distributed", reason="the extra [dask] is not installed")
    problem = lethal_problem(tmp_path / "flag")
    study = Study(problem, ALGORITHMS, seeds=2, evaluations=20, store=tmp_path / "study.db")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster),
    ):
        study.run(n_jobs=2, backend="dask", threads=1)

    assert (tmp_path / "flag").exists()
    check(study.path, expected)


def test_ray_workers_give_the_same_table_and_one_may_die(tmp_path, expected):
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    problem = lethal_problem(tmp_path / "flag")
    study = Study(problem, ALGORITHMS, seeds=2, evaluations=20, store=tmp_path / "study.db")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=50,
        runtime_env={"env_vars": {"PYTHONPATH": os.path.dirname(tiny.__file__)}},
    )
    try:
        with pytest.warns(RuntimeWarning, match="a worker was lost"):
            study.run(n_jobs=2, backend="ray", threads=1)
    finally:
        ray.shutdown()

    assert (tmp_path / "flag").exists()
    check(study.path, expected)


def test_budgets_in_cost_and_seconds(tmp_path, problem):
    one = problem.anchors().evaluations[0].cost
    cost = Study(
        problem,
        ["random:batch_size=1"],
        seeds=1,
        cost=7 * one,
        store=tmp_path / "a.db",
        controls=False,
    )
    (run,) = cost.run().results().runs
    assert run.cost.sum() == 7 * one

    timed = Study(
        problem,
        ["random:batch_size=1"],
        seeds=1,
        seconds=0.3,
        store=tmp_path / "b.db",
        controls=False,
    )
    (run,) = timed.run().results().runs
    assert run.elapsed[-1] >= 0.3
    assert run.elapsed[-2] < 0.3


def test_evaluations_beyond_the_budget_are_not_reported(tmp_path, problem):
    study = Study(
        problem,
        ["nsga2:pop_size=8"],
        seeds=1,
        evaluations=20,
        store=tmp_path / "a.db",
        controls=False,
    ).run()

    assert study.cells()[0].evaluations == 24
    (run,) = study.results().runs
    assert len(run.X) == 20
    assert run.front.max() < 20


def test_one_failing_run_does_not_stop_the_others(tmp_path, problem, monkeypatch):
    from moofusion.comparison import cell

    real = cell.get_algorithm

    def broken(text, problem):
        if text == "soup":
            raise ConfigurationError("the soup is cold")
        return real(text, problem)

    study = Study(problem, ALGORITHMS, seeds=1, evaluations=6, store=tmp_path / "a.db")
    monkeypatch.setattr(cell, "get_algorithm", broken)
    with pytest.raises(RunError, match=r"1 of 3 runs did not finish:\n.*soup.*the soup is cold"):
        study.run()
    states = {c.algorithm: c.status for c in study.cells()}
    assert states["soup"] == "failed"
    assert states["nsga2:pop_size=6"] == "done"

    monkeypatch.undo()
    assert {c.status for c in study.run().cells()} == {"done"}


def test_a_study_knows_other_models_from_its_own(tmp_path):
    Study(
        tiny.net_problem(),
        ["soup"],
        seeds=1,
        evaluations=4,
        store=tmp_path / "a.db",
        controls=False,
    ).run()
    other = tiny.net_problem(experts=("a", "b"), title="pair")
    study = Study(other, ["soup"], seeds=1, evaluations=4, store=tmp_path / "a.db", controls=False)

    assert [cell.status for cell in study.cells()] == ["pending"]
    assert len(study.run().results().problems) == 2


def test_constraints_keep_infeasible_models_off_the_front(tmp_path):
    from moofusion.problems import Constraint

    problem = tiny.net_problem(constraints=[Constraint("a", at_least=0.95, relative_to="a")])
    study = Study(
        problem, ["random"], seeds=1, evaluations=40, store=tmp_path / "a.db", controls=False
    ).run()
    (run,) = study.results().runs

    assert not run.usable.all()
    best = problem.anchors().evaluations[1].measurements[0].metrics["accuracy"]
    assert (run.values[run.front, 0] >= 0.95 * best).all()


def test_bad_studies_are_refused_before_anything_is_paid(tmp_path, problem):
    path = tmp_path / "a.db"
    with pytest.raises(ConfigurationError, match="exactly one budget"):
        Study(problem, ["soup"], evaluations=5, cost=5, store=path)
    with pytest.raises(ConfigurationError, match="exactly one budget"):
        Study(problem, ["soup"], store=path)
    with pytest.raises(ConfigurationError, match="positive number"):
        Study(problem, ["soup"], evaluations=0, store=path)
    with pytest.raises(UnknownNameError, match="did you mean 'nsga2'"):
        Study(problem, ["nsga22"], evaluations=5, store=path)
    with pytest.raises(ConfigurationError, match="at least one seed"):
        Study(problem, ["soup"], seeds=[], evaluations=5, store=path)
    with pytest.raises(ConfigurationError, match="different titles"):
        Study([problem, problem], ["soup"], evaluations=5, store=path)
    study = Study(problem, ["soup"], evaluations=5, store=path)
    with pytest.raises(ConfigurationError, match="backend 'spark'"):
        study.run(backend="spark")
    with pytest.raises(ConfigurationError, match="n_jobs"):
        study.run(n_jobs=0)


def test_controls_run_beside_the_algorithms_unless_they_are_declined(tmp_path, problem):
    options = {"seeds": 1, "evaluations": 5}
    nsga2 = ["nsga2:pop_size=5"]
    assert Study(problem, nsga2, store=tmp_path / "a.db", **options).algorithms == (
        "nsga2:pop_size=5",
        "random",
        "soup",
    )
    own = ["soup:scale=0.5", "random:batch_size=2"]
    assert Study(problem, own, store=tmp_path / "b.db", **options).algorithms == tuple(own)
    plain = Study(problem, nsga2, store=tmp_path / "c.db", controls=False, **options)
    assert plain.algorithms == tuple(nsga2)
    # No soup where an objective has no expert of its own.
    task = tiny.net_tasks(tiny.net_pool())[0]
    task.name = "orphan"
    orphan = MergeProblem(tiny.net_pool(), [task])
    alone = Study(orphan, nsga2, store=tmp_path / "d.db", **options)
    assert alone.algorithms == ("nsga2:pop_size=5", "random")


def test_merges_without_search_are_measured_as_controls(study, problem):
    (data,) = study.results().problems.values()
    K = problem.space.n_experts
    scales = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3]
    for method, title in (("linear", "task arithmetic"), ("ties", "TIES")):
        tried = problem.measured_uniform(np.outer(scales, np.ones(K)), method=method)
        errors = problem.normalize(problem.objectives(tried)).mean(axis=1)
        best = scales[int(errors.argmin())]
        for split in ("search", "test"):
            row = data.controls[split][f"{title} {best:g} (best scale)"]
            (found,) = problem.measured_uniform(np.full(K, best), method=method, split=split)
            expected = [m.metrics["accuracy"] for m in found.measurements]
            np.testing.assert_array_equal(data.values(row)[0], expected)


def test_declined_merges_are_measured_when_a_later_study_wants_them(tmp_path):
    options = {"seeds": 1, "evaluations": 2, "store": tmp_path / "s.db"}
    plain = tiny.net_problem()
    Study(plain, ["grid"], controls=False, **options)
    with Store(tmp_path / "s.db") as store:
        (before,) = store.problems().values()
    assert before[1]["controls"] == {"search": {}, "test": {}}
    Study(tiny.net_problem(), ["grid"], **options)
    with Store(tmp_path / "s.db") as store:
        (after,) = store.problems().values()
    assert "average" in after[1]["controls"]["test"]
    assert after[1]["anchors"] == before[1]["anchors"]


class _Descent(ProposalAlgorithm):
    """Follows a gradient from the middle: one gradient before each evaluation."""

    def _setup(self, problem, **kwargs):
        self.x = (problem.xl + problem.xu) / 2

    def _batch(self, size):
        self.x = self.x - 0.05 * self.problem.losses_and_grads(self.x)[1].mean(axis=0)
        return self.x[None]


def test_gradients_are_charged_to_the_evaluation_after_them(tmp_path, problem, monkeypatch):
    from moofusion.comparison import cell

    monkeypatch.setattr(cell, "get_algorithm", lambda text, problem: _Descent(batch_size=1))
    options = {"seeds": 1, "controls": False}
    path = tmp_path / "a.db"
    Study(problem, ["random"], evaluations=3, store=path, **options).run()
    (run,) = StudyData.read(path).runs
    one = problem.anchors().evaluations[0].cost
    gradient = 3 * 3 * tiny.SIZES["train"]  # three tasks, forward and backward
    assert run.cost.tolist() == [one + gradient] * 3
    assert (run.device_seconds > 0).all()
    with Store(path) as store:
        (only,) = store.cells()
        rows = store.evaluations(only.id)
    assert [row["gradient_cost"] for row in rows] == [gradient] * 3

    # The same under a budget of cost units.
    limit = 2.5 * (one + gradient)
    Study(problem, ["random"], cost=limit, store=tmp_path / "b.db", **options).run()
    (run,) = StudyData.read(tmp_path / "b.db").runs
    assert len(run.X) == 3


def test_progress_reaches_the_total(study):
    seen = []
    study.run(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][1] == 6 * 20
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_bar_is_shown_on_request(study, capsys):
    study.run(verbose=True)
    assert "120/120" in capsys.readouterr().err


def test_what_is_missing_is_counted_and_timed(tmp_path, problem):
    study = Study(
        problem, ["random:batch_size=2"], seeds=[1, 2], evaluations=4, controls=False,
        store=tmp_path / "s.db",
    )  # fmt: skip
    runs, seconds = study.missing()
    assert runs == 2
    one = np.median([found.seconds for found in problem.anchors().evaluations])
    assert seconds == pytest.approx(8 * one)
    by_cost = Study(
        problem, ["random"], seeds=1, cost=3 * problem.anchors().evaluations[0].cost,
        controls=False, store=tmp_path / "c.db",
    )  # fmt: skip
    assert by_cost.missing() == (1, pytest.approx(3 * one))
    by_time = Study(
        problem, ["random"], seeds=3, seconds=2, controls=False, store=tmp_path / "t.db"
    )
    assert by_time.missing() == (3, 6.0)
    study.run()
    assert study.missing() == (0, 0.0)


def test_a_notebook_shows_table_and_picture(study):
    before = study._repr_html_()
    assert "6 of 6 runs are not finished" in before
    assert "<img" not in before
    study.run()
    html = study._repr_html_()
    assert "soup" in html
    assert "HV test" in html
    assert "not finished" not in html
    picture = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', html)[1])
    assert Image.open(io.BytesIO(picture)).size > (300, 200)
