import json

import numpy as np
import pytest
import tiny
from pymoo.algorithms.moo.nsga2 import NSGA2
from runs import rows, same_run

import moofusion
from moofusion import Constraint, FunctionTask, MergeProblem, SearchResult, hypervolume
from moofusion.comparison import nondominated
from moofusion.errors import ConfigurationError, EvaluationWarning, MoofusionError, RunError

FILES = {
    "evaluations.csv", "front.csv", "references.csv", "front.png", "front_search.png",
    "summary.md", "run.json", "test.csv",
}  # fmt: skip
SMALL = "nsga2:pop_size=10"


def run(out=None, problem=None, **options):
    settings = {"algorithm": SMALL, "evaluations": 40, "seed": 3} | options
    return moofusion.search(problem or tiny.net_problem(), out=out, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that was never interrupted. Read only."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return run(folder)


@pytest.fixture(autouse=True)
def _quick_pictures(finished, monkeypatch):
    """Blank pictures: what is drawn is tested elsewhere, and takes longest here."""
    from matplotlib.figure import Figure

    blank = Figure(figsize=(1, 1))
    monkeypatch.setattr("moofusion.comparison.plots.plot_front", lambda *_, **__: blank)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of it to be damaged."""
    import shutil

    return shutil.copytree(finished.folder, tmp_path / "run")


# ------------------------------------------------------------------ what a search returns


def test_the_front_holds_exactly_the_non_dominated_candidates(finished):
    problem = tiny.net_problem()
    log = rows(finished.folder / "evaluations.csv")
    X = np.array([[float(row[f"x:{name}"]) for name in "abc"] for row in log])
    F = problem.measured(X)
    expected = {tuple(f) for f in F[nondominated(F)]}
    front = finished.front
    assert {tuple(f) for f in front.objectives("search")} == expected
    assert len(front) == len(expected)
    assert (np.diff(front.objectives("search")[:, 0]) >= 0).all()


def test_every_row_of_the_front_is_what_the_problem_measures(finished):
    problem = tiny.net_problem()
    for x, search, test in zip(
        finished.front.X, finished.front.search, finished.front.test, strict=True
    ):
        for split, values in (("search", search), ("test", test)):
            found = problem.record(x, split=split).measurements
            assert [m.metrics["accuracy"] for m in found] == values.tolist()


def test_references_are_the_anchors_the_average_and_task_arithmetic(finished):
    assert finished.references.labels == (
        "base", "a", "b", "c", "average", "task arithmetic 0.3",
    )  # fmt: skip
    problem = tiny.net_problem()
    L = np.vstack([np.zeros(3), np.eye(3), np.full((1, 3), 1 / 3), np.full((1, 3), 0.3)])
    for split in ("search", "test"):
        found = problem.measured_uniform(L, split=split)
        values = [[m.metrics["accuracy"] for m in e.measurements] for e in found]
        assert finished.references.values(split).tolist() == values
    assert np.array_equal(finished.references.scale_search[0], problem.anchors().ideal)
    assert np.array_equal(finished.references.scale_test[1], problem.anchors("test").nadir)


def test_references_are_whole_models_in_a_space_that_cannot_express_them():
    problem = tiny.net_problem(space={"kind": "task-wise", "select": "mlp", "static": 0.9})
    found = run(problem=problem, evaluations=10)
    assert np.array_equal(found.references.search, run(evaluations=10).references.search)


def test_hypervolume_is_that_of_the_normalized_front(finished):
    problem = tiny.net_problem()
    for split in ("search", "test"):
        F = problem.normalize(problem.measured(finished.front.X, split=split), split=split)
        assert finished.hypervolume(split) == pytest.approx(hypervolume(F), abs=1e-12)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch, finished):
    monkeypatch.chdir(tmp_path)
    result = run()
    assert list(tmp_path.iterdir()) == []
    assert result.folder is None
    assert np.array_equal(result.front.X, finished.front.X)
    assert len(result.evaluated) == 40


def test_a_pymoo_algorithm_serves_as_well_as_a_name():
    algorithm = NSGA2(pop_size=10, sampling=np.random.default_rng(0).random((10, 3)))
    result = run(algorithm=algorithm, evaluations=20)
    assert result.settings["algorithm"] == "NSGA2"
    assert len(result.evaluated) == 20


def test_progress_counts_evaluations_and_its_hypervolume_never_falls(finished):
    seen = []
    result = run(progress=lambda *values: seen.append(values))
    stages = list(dict.fromkeys(stage for stage, *_ in seen))
    assert stages == ["anchors", "search", "test"]
    searched = [(done, total, volume) for stage, done, total, volume in seen if stage == "search"]
    assert [done for done, _, _ in searched] == list(range(41))
    volumes = [volume for _, _, volume in searched]
    assert (np.diff(volumes) >= -1e-12).all()
    assert volumes[-1] == pytest.approx(finished.hypervolume("search"), abs=1e-12)
    assert seen[-1][1] == seen[-1][2]
    assert np.array_equal(result.front.X, finished.front.X)


def test_a_search_leaves_no_observer_behind():
    problem = tiny.net_problem()
    run(problem=problem, evaluations=10, progress=lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        run(problem=problem, evaluations=10, progress=lambda *_: 1 / 0)
    assert problem.observers == []


@pytest.mark.parametrize(
    "options", [{"evaluations": 0}, {"seed": -1}, {"resume": True, "force": True}]
)
def test_arguments_that_mean_nothing_are_refused(options, tmp_path):
    with pytest.raises(ConfigurationError):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ constraints and failures


def test_the_front_meets_the_constraints():
    free = run()
    bound = float(np.median(free.evaluated[:, 0]))
    problem = tiny.net_problem(constraints=[Constraint("a", at_least=bound)])
    result = run(problem=problem)
    assert (result.front.search[:, 0] >= bound).all()
    assert (result.evaluated[:, 0] < bound).any()


def test_a_run_without_a_usable_candidate_says_so(tmp_path):
    problem = tiny.net_problem(constraints=[Constraint("a", at_least=2.0)])
    with pytest.raises(RunError, match="none of the 20 evaluated candidates is usable"):
        run(tmp_path / "out", problem, evaluations=20)
    assert len(rows(tmp_path / "out" / "evaluations.csv")) == 20
    with pytest.raises(RunError, match="not finished"):
        SearchResult.load(tmp_path / "out")


def _function_problem(search, test=None):
    pool = tiny.net_pool(("a", "b"))
    task = FunctionTask("own", search, test=test, direction="min", worst=99.0, head="base")
    return MergeProblem(pool, [task, *tiny.net_tasks(pool, ["b"])])


def _weight(module):
    return float(module.embed.weight.detach()[0, 0])


def test_failed_candidates_stay_out_of_the_front(tmp_path):
    limit = np.median([_weight(m) for m in (tiny.net(), *tiny.net_pool().experts.values())])
    anchors = {_weight(m) for m in (tiny.net(), *tiny.net_pool(("a", "b")).experts.values())}

    def sometimes(module):
        value = _weight(module)
        known = min(abs(value - anchor) for anchor in anchors) < 1e-6
        return value if known or value < limit else float("nan")

    problem = _function_problem(sometimes, lambda m: 1.0)
    with pytest.warns(EvaluationWarning, match="recorded as failed"):
        result = run(tmp_path / "out", problem)
    log = rows(tmp_path / "out" / "evaluations.csv")
    failed = [row["status"] == "failed" for row in log]
    assert any(failed)
    assert not all(failed)
    assert np.isfinite(result.front.search).all()
    assert np.isnan(result.evaluated).all(axis=1).tolist() == failed
    loaded = SearchResult.load(tmp_path / "out")
    assert np.array_equal(loaded.evaluated, result.evaluated, equal_nan=True)


def test_a_failure_on_the_test_split_alone_does_not_lose_the_run(tmp_path):
    anchors = {_weight(m) for m in (tiny.net(), *tiny.net_pool(("a", "b")).experts.values())}

    def only_anchors(module):
        known = min(abs(_weight(module) - anchor) for anchor in anchors) < 1e-6
        return 1.0 if known else float("nan")

    problem = _function_problem(_weight, only_anchors)
    with pytest.warns(EvaluationWarning, match="on the test split"):
        result = run(tmp_path / "out", problem)
    assert result.hypervolume("test") == 0.0
    assert result.hypervolume("search") > 0.0
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES


def test_anchors_that_cannot_be_measured_stop_a_run_before_it_begins(tmp_path):
    problem = _function_problem(_weight, lambda m: float("nan"))
    with pytest.raises(ConfigurationError, match=r"base model itself .* on the test split"):
        run(tmp_path / "out", problem)
    assert not (tmp_path / "out" / "evaluations.csv").exists()


# ------------------------------------------------------------------ run folders


def test_a_run_folder_holds_everything(finished):
    assert {file.name for file in finished.folder.iterdir()} == FILES
    stored = json.loads((finished.folder / "run.json").read_text())
    assert stored["fingerprint"] == tiny.net_problem().fingerprint()
    assert (stored["algorithm"], stored["evaluations"], stored["seed"]) == (SMALL, 40, 3)
    assert set(stored["versions"]) >= {"moofusion", "pymoo", "torch"}
    assert stored["result"]["hypervolume"]["test"] == finished.hypervolume("test")
    log = rows(finished.folder / "evaluations.csv")
    assert [int(row["evaluation"]) for row in log] == list(range(1, 41))
    assert {row["cost"] for row in log if row["cached"] == "0"} == {str(3.0 * tiny.SIZES["search"])}
    assert {row["cost"] for row in log if row["cached"] == "1"} <= {"0.0"}


def test_a_run_reads_back_as_it_was(finished):
    loaded = SearchResult.load(finished.folder)
    for one, other in ((loaded.front, finished.front), (loaded.references, finished.references)):
        assert (one.labels, one.tasks, one.metrics) == (other.labels, other.tasks, other.metrics)
        for name in ("search", "test", "scale_search", "scale_test"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    for name in ("X", "cost"):
        assert np.array_equal(getattr(loaded.front, name), getattr(finished.front, name))
    assert loaded.front.variables == finished.front.variables
    assert np.array_equal(loaded.evaluated, finished.evaluated)
    assert loaded.summary() == finished.summary()
    assert loaded.seconds == finished.seconds


def test_the_summary_lists_models_and_hypervolumes(finished):
    text = (finished.folder / "summary.md").read_text()
    for label in ("base", "a", "b", "c", "average", "task arithmetic 0.3", "front: knee"):
        assert text.count(f"| {label} | ") == 2, label
    for j, task in enumerate("abc"):
        best = 100 * finished.front.search[:, j].max()
        row = next(
            line
            for line in text[text.index("## search split") :].splitlines()
            if line.startswith(f"| front: best {task} |")
        )
        assert row.split("|")[2 + j].strip() == f"{best:.1f}"
    assert "Reference point (1.1, 1.1, 1.1)" in text
    for split in ("search", "test"):
        assert f"{finished.hypervolume(split):.4f}" in text
    assert finished.settings["fingerprint"] in text
    assert "No held-out test split" not in text


def test_a_problem_without_a_test_split_says_so_everywhere(tmp_path):
    problem = _function_problem(_weight)
    result = run(tmp_path / "out", problem)
    assert result.splits == ("search",)
    assert "No held-out test split" in (tmp_path / "out" / "summary.md").read_text()
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES - {
        "front_search.png",
        "test.csv",
    }
    assert not any(name.endswith(":test") for name in rows(tmp_path / "out" / "front.csv")[0])
    loaded = SearchResult.load(tmp_path / "out")
    assert loaded.splits == ("search",)
    with pytest.raises(RunError, match="not measured on the 'test' split"):
        loaded.front.values("test")


def test_an_existing_folder_is_left_alone(copied, tmp_path):
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    with pytest.raises(RunError, match=r"exists already.*--resume continues it"):
        run(copied)
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(RunError, match=r"exists already|other files than a run"):
            run(tmp_path / "mine", force=force)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_force_replaces_a_run_and_nothing_else(copied):
    (copied / "notes.txt").write_text("mine")
    result = run(copied, force=True, evaluations=10, seed=8)
    assert len(rows(copied / "evaluations.csv")) == 10
    assert (copied / "notes.txt").read_text() == "mine"
    assert np.array_equal(SearchResult.load(copied).front.X, result.front.X)


def test_an_empty_folder_and_one_killed_at_birth_are_as_good_as_new(tmp_path):
    (tmp_path / "run.json.tmp").write_text('{"problem": "me')
    run(tmp_path, evaluations=10)
    assert SearchResult.load(tmp_path).settings["evaluations"] == 10


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    for force in (False, True):
        with pytest.raises(RunError, match=r"is a file|cannot be written"):
            run(tmp_path / place, force=force)
    assert (tmp_path / "file").read_text() == "mine"


DAMAGES = {
    "run.json is missing": ("run.json", None),
    "run.json is cut": ("run.json", lambda text: text[: len(text) // 2]),
    "run.json is a list": ("run.json", lambda text: "[1, 2]"),
    "run.json lacks the metrics": ("run.json", lambda text: text.replace('"metrics"', '"matrix"')),
    "run.json has no tasks": ("run.json", lambda text: text.replace('"tasks"', '"taks"')),
    "run.json is not text": ("run.json", lambda text: "\udcff"),
    "front.csv is missing": ("front.csv", None),
    "front.csv is empty": ("front.csv", lambda text: ""),
    "front.csv lost a column": ("front.csv", lambda text: text.replace("a:search", "z:search")),
    "front.csv holds words": ("front.csv", lambda text: text.replace("0.", "zero.")),
    "front.csv is cut": ("front.csv", lambda text: text[: text.rindex(",") - 30]),
    "references.csv is missing": ("references.csv", None),
    "references.csv lost a column": ("references.csv", lambda text: text.replace("b:test", "z")),
    "evaluations.csv is missing": ("evaluations.csv", None),
    "evaluations.csv is another": ("evaluations.csv", lambda text: "a,b\n1,2\n"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_an_error_that_names_the_folder(copied, name):
    file, change = DAMAGES[name]
    if change is None:
        (copied / file).unlink()
    else:
        text = change((copied / file).read_text())
        (copied / file).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match="run"):
        SearchResult.load(copied)


# ------------------------------------------------------------------ interrupted and resumed


class Stop(KeyboardInterrupt):
    """Ctrl-C at a chosen moment."""


def _interrupt(out, at, **options):
    """Run until evaluation `at` of this process, then be interrupted."""

    def progress(stage, done, total, volume):
        if (stage, done) == at:
            raise Stop

    with pytest.raises(Stop):
        run(out, progress=progress, **options)


@pytest.mark.parametrize("algorithm", [SMALL, "nsga3:pop_size=10", "random", "grid", "moead"])
def test_an_interrupted_run_resumes_to_the_same_result(tmp_path, algorithm):
    rng = np.random.default_rng()
    whole = run(tmp_path / "whole", algorithm=algorithm)
    n = len(whole.evaluated)
    moments = sorted({1, n, *rng.integers(2, n, 2).tolist()})
    first, *later = [("search", moment) for moment in moments]
    _interrupt(tmp_path / "cut", first, algorithm=algorithm)
    for moment in [*later, ("test", 1), ("test", len(whole.front))]:
        _interrupt(tmp_path / "cut", moment, algorithm=algorithm, resume=True)
    result = run(tmp_path / "cut", algorithm=algorithm, resume=True)
    assert same_run(tmp_path / "whole", tmp_path / "cut"), moments
    assert result.hypervolume("test") == whole.hypervolume("test")


def test_what_is_on_disk_is_not_paid_again(tmp_path):
    _interrupt(tmp_path / "cut", ("search", 25))
    problem = tiny.net_problem()
    result = run(tmp_path / "cut", problem, resume=True)
    log = rows(tmp_path / "cut" / "evaluations.csv")
    fresh = [row["cached"] for row in log[25:]].count("0")
    references, tested = 6 * 2, len(result.front)
    assert problem.counter.merges == fresh + references + tested
    assert result.seconds > sum(float(row["seconds"]) for row in log[:25])


def test_bars_are_shown_on_request(capsys):
    result = run(verbose=True)
    shown = capsys.readouterr().err
    assert f"40/40 hypervolume {result.hypervolume():.4f}" in shown
    assert f"{len(result.front)}/{len(result.front)}" in shown


def test_what_is_tested_is_not_paid_again(finished, tmp_path):
    _interrupt(tmp_path / "cut", ("test", 3))
    assert len(rows(tmp_path / "cut" / "test.csv")) == 3
    problem = tiny.net_problem()
    result = run(tmp_path / "cut", problem, resume=True)
    assert problem.counter.merges == 6 * 2 + len(result.front) - 3
    assert same_run(finished.folder, tmp_path / "cut")


def test_other_test_data_are_not_mixed_with_what_is_tested(tmp_path):
    _interrupt(tmp_path / "cut", ("test", 3))
    settings = json.loads((tmp_path / "cut" / "run.json").read_text())
    changed = json.dumps(settings | {"fingerprint_test": "of other data"})
    (tmp_path / "cut" / "run.json").write_text(changed)
    with pytest.raises(RunError, match=r"other test data already.*remove .*test\.csv"):
        run(tmp_path / "cut", resume=True)


@pytest.mark.parametrize("algorithm", [SMALL, "nsga3:pop_size=10", "random:batch_size=10"])
def test_a_finished_run_goes_on_with_a_larger_budget(tmp_path, algorithm):
    whole = run(tmp_path / "whole", algorithm=algorithm, evaluations=60)
    run(tmp_path / "more", algorithm=algorithm, evaluations=30)
    _interrupt(tmp_path / "more", ("search", 45), algorithm=algorithm, evaluations=60, resume=True)
    result = run(tmp_path / "more", algorithm=algorithm, evaluations=60, resume=True)
    assert same_run(tmp_path / "whole", tmp_path / "more")
    assert result.hypervolume("test") == whole.hypervolume("test")
    assert SearchResult.load(tmp_path / "more").settings["evaluations"] == 60


def test_an_algorithm_that_plans_with_its_budget_cannot_be_given_more(tmp_path):
    run(tmp_path / "out", algorithm="grid", evaluations=20)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with pytest.raises(RunError, match="plans with its whole budget"):
        run(tmp_path / "out", algorithm="grid", evaluations=40, resume=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("cut", [1, 7, 40, 200])
def test_a_row_cut_off_by_a_kill_is_measured_again(finished, copied, cut):
    log = copied / "evaluations.csv"
    for name in FILES - {"evaluations.csv", "run.json"}:
        (copied / name).unlink()
    log.write_bytes(log.read_bytes()[:-cut])
    run(copied, resume=True)
    assert same_run(finished.folder, copied)


def test_a_log_that_was_not_even_begun_is_written_again(finished, copied):
    for text in ("", "evalua", "evaluation,status"):
        (copied / "evaluations.csv").write_text(text)
        run(copied, resume=True)
        assert same_run(finished.folder, copied)


def test_resuming_a_finished_run_changes_nothing(finished, copied):
    problem = tiny.net_problem()
    run(copied, problem, resume=True)
    assert same_run(finished.folder, copied)
    assert problem.counter.merges < 40


def test_results_that_could_not_be_written_are_written_on_resume(finished, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("moofusion.comparison.plots.plot_front", fail)
        with pytest.raises((OSError, MoofusionError), match="disk full"):
            run(tmp_path / "out")
    with pytest.raises(RunError, match="not finished"):
        SearchResult.load(tmp_path / "out")
    run(tmp_path / "out", resume=True)
    assert same_run(finished.folder, tmp_path / "out")


OTHERS = {
    "seed": {"seed": 4},
    "algorithm": {"algorithm": "nsga2:pop_size=11"},
    "evaluations": {"evaluations": 39},
    "tasks": {"problem": lambda: tiny.net_problem(tasks=["a", "b"])},
    "fingerprint": {"problem": lambda: tiny.net_problem(space="simplex")},
    "problem": {"problem": lambda: tiny.net_problem(title="another")},
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_run_is_not_resumed(copied, what):
    options = {k: v() if callable(v) else v for k, v in OTHERS[what].items()}
    before = (copied / "evaluations.csv").read_bytes()
    with pytest.raises(RunError, match=f"cannot resume .*: its {what} is"):
        run(copied, resume=True, **options)
    assert (copied / "evaluations.csv").read_bytes() == before


def test_another_objective_of_the_same_models_is_not_resumed(copied):
    with pytest.raises(RunError, match="metrics or search space"):
        run(copied, tiny.net_problem(objective="macro_f1"), resume=True)


def test_nothing_can_be_resumed_where_nothing_is(tmp_path):
    with pytest.raises(RunError, match=r"holds no run \(there is no such folder\)"):
        run(tmp_path / "nowhere", resume=True)
    with pytest.raises(RunError, match=r"holds no run \(there is no run.json\)"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("name", ["front.csv", "references.csv"])
def test_edited_results_are_not_believed(finished, copied, name):
    text = (copied / name).read_text()
    (copied / name).write_text(text.replace("0.", "0.9", 1))
    with pytest.raises(RunError, match=f"{name} was changed .* resume=True"):
        SearchResult.load(copied)
    run(copied, resume=True)
    assert (copied / name).read_text() == text
    assert len(SearchResult.load(copied).front) == len(finished.front)


def test_a_run_that_is_not_finished_names_the_command_that_finishes_it(tmp_path):
    problem = tiny.net_problem(constraints=[Constraint("a", at_least=2.0)])
    command = "moofusion search 'my problem' --force"
    with pytest.raises(RunError, match="usable"):
        moofusion.search(problem, "random", evaluations=5, out=tmp_path / "out", command=command)
    with pytest.raises(RunError, match="go on with: moofusion search 'my problem' --resume"):
        SearchResult.load(tmp_path / "out")


def test_a_log_of_another_problem_is_refused(copied, tmp_path):
    run(tmp_path / "other", tiny.net_problem(space="block-wise"), evaluations=10)
    (copied / "evaluations.csv").write_bytes((tmp_path / "other/evaluations.csv").read_bytes())
    with pytest.raises(RunError, match="log of another problem"):
        run(copied, resume=True)


def test_a_log_of_another_run_of_the_same_problem_is_refused(copied, tmp_path):
    run(tmp_path / "other", seed=99)
    (copied / "evaluations.csv").write_bytes((tmp_path / "other/evaluations.csv").read_bytes())
    with pytest.raises(RunError, match="evaluation 1 of this run is another candidate"):
        run(copied, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line[: len(line) // 2],
        lambda line: line.replace("0.", "zero."),
        lambda line: line + ",1.0",
        lambda line: "",
        lambda line: line.replace("ok", "fine"),
        lambda line: "7" + line,
    ],
)
def test_a_damaged_row_is_named(copied, change):
    log = copied / "evaluations.csv"
    lines = log.read_text().splitlines()
    lines[5] = change(lines[5])
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=r"evaluations.csv: evaluation 5 cannot be read"):
        run(copied, resume=True)


def test_another_number_of_threads_is_a_warning(copied):
    stored = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps(stored | {"threads": 64}))
    with pytest.warns(UserWarning, match="begun with threads = 64, now 1"):
        run(copied, resume=True)
    assert json.loads((copied / "run.json").read_text())["threads"] == 64
