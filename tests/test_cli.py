import json
import re
import signal
import time

import numpy as np
import pytest
from runs import VISION, cli, rows, same_run, start_cli, write_problem

import moofusion
from moofusion import SearchResult

FILES = {
    "evaluations.csv", "front.csv", "references.csv", "front.png", "front_search.png", "test.csv",
    "summary.md", "run.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory, vit_folders, images):
    """A problem file of two tiny tasks, a few milliseconds for each evaluation."""
    return write_problem(tmp_path_factory.mktemp("toy"), vit_folders, images)


@pytest.fixture(scope="module")
def run(toy, tmp_path_factory):
    """A finished run of it. Read only."""
    folder = tmp_path_factory.mktemp("run") / "first"
    found = cli("search", toy, "--evaluations", 40, "--seed", 5, "--out", folder)
    assert found.code == 0, found.err
    return folder


def refused(*args):
    """The message of a command that must fail, which may be no more than that message."""
    found = cli(*args)
    text = found.err.strip()
    assert found.code == 2, (found.code, text)
    assert "Traceback" not in text
    assert found.out.strip() == ""
    return " ".join(text.removeprefix("error: ").split())


# ------------------------------------------------------------------ the main job


def test_more_evaluations_than_asked_for_are_told(toy, run, tmp_path):
    options = ("--algorithm", "nsga2:pop_size=4", "--evaluations", 6, "--out", tmp_path / "run")
    found = cli("search", toy, *options)
    assert found.code == 0, found.err
    text = " ".join(found.out.split())
    assert "8 evaluations in place of 6: nsga2 ends with a whole generation" in text


def test_search_on_the_shipped_models_writes_everything(tmp_path):
    out = tmp_path / "runs" / "first"
    options = ("--algorithm", "nsga2:pop_size=4", "--evaluations", 8, "--seed", 2, "--out", out)
    found = cli("search", *VISION, *options)
    assert found.code == 0, found.err
    assert {file.name for file in out.iterdir()} == FILES
    for picture in out.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
    front, log = rows(out / "front.csv"), rows(out / "evaluations.csv")
    assert len(log) == 8
    values = [[float(row[f"{t}/accuracy"]) for t in ("animals", "objects")] for row in log]
    for row in front:
        mine = [float(row["animals:search"]), float(row["objects:search"])]
        assert mine in values
        assert not any(
            all(np.array(other) >= mine) and any(np.array(other) > mine) for other in values
        )
    x = np.array([float(front[0]["x:animals"]), float(front[0]["x:objects"])])
    for split in ("search", "test"):
        for task, measured in zip(
            ("animals", "objects"), problem.record(x, split=split).measurements, strict=True
        ):
            assert measured.metrics["accuracy"] == float(front[0][f"{task}:{split}"])
    summary = (out / "summary.md").read_text()
    for label in (
        "base", "animals", "objects", "average", "task arithmetic 0.3", "front: best animals",
        "front: best objects", "front: knee",
    ):  # fmt: skip
        assert f"| {label} |" in summary
        assert label in found.out
    result = SearchResult.load(out)
    for split in ("search", "test"):
        assert f"{result.hypervolume(split):.4f}" in summary
        assert f"{split} {result.hypervolume(split):.4f}" in found.out
    assert "Reference point (1.1, 1.1)" in summary
    command = f"moofusion search vision4 --tasks animals,objects --algorithm {options[1]}"
    assert command in summary
    assert f"moofusion export {out} --preference" in " ".join(found.out.split())


def test_the_printed_next_command_works(run, tmp_path, toy):
    again = cli("search", toy, "--evaluations", 40, "--seed", 5, "--out", run, "--resume")
    line = next(line for line in again.out.splitlines() if line.startswith("next: "))
    words = line.removeprefix("next: moofusion ").replace("OUT", str(tmp_path / "out")).split()
    found = cli(*words)
    assert found.code == 0, found.err
    assert "head of dots" in found.out
    front = SearchResult.load(run).front
    point = int(re.search(r"^point (\d+) of", found.out, re.MULTILINE)[1])
    assert f"point {point} of {len(front)}, chosen by 'weighted' with preference" in found.out
    for split in ("search", "test"):
        dots, bars = (100 * value for value in front.values(split)[point - 1])
        assert f"{split}: dots {dots:.1f} %, bars {bars:.1f} %" in found.out
    assert "other heads" in found.out
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("typed", "path", "shown"),
    [
        ("{here}/.venv/bin/moofusion", "", ".venv/bin/moofusion"),
        ("/opt/bin/moofusion", "", "/opt/bin/moofusion"),
        ("{here}/.venv/bin/moofusion", "{here}/.venv/bin", "moofusion"),
        ("/usr/lib/python3/site-packages/pytest/__main__.py", "", "moofusion"),
    ],
)
def test_the_next_command_can_be_typed_as_it_is(tmp_path, monkeypatch, typed, path, shown):
    from moofusion.cli.display import program

    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "moofusion").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path.format(here=tmp_path))
    monkeypatch.setattr("sys.argv", [typed.format(here=tmp_path)])
    assert program() == shown


def test_progress_shows_evaluations_and_hypervolume(toy, tmp_path):
    found = cli("search", toy, "--algorithm", "random", "--evaluations", 6, "--out", tmp_path / "r")
    assert found.code == 0
    volume = SearchResult.load(tmp_path / "r").hypervolume("search")
    assert re.search(rf"searching.* 6/6 hypervolume {volume:.4f}", found.err)
    assert re.search(r"testing.* (\d+)/\1", found.err)


def test_without_a_folder_the_run_goes_where_its_name_says(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = cli("search", toy, "--algorithm", "random:batch_size=3", "--evaluations", 3)
    assert found.code == 0, found.err
    assert (tmp_path / "runs" / "toy-random-1" / "front.csv").exists()


def test_an_existing_run_is_replaced_on_request_only(toy, run, tmp_path):
    same = ("search", toy, "--algorithm", "random", "--evaluations", 4)
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    assert "exists already; --resume continues it, --force replaces it" in refused(
        *same, "--out", run
    )
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for force in ((), ("--force",)):
        assert re.search(
            "exists already|other files", refused(*same, "--out", tmp_path / "mine", *force)
        )
    assert cli(*same, "--out", tmp_path / "new").code == 0
    assert cli(*same, "--seed", 9, "--out", tmp_path / "new", "--force").code == 0
    assert json.loads((tmp_path / "new" / "run.json").read_text())["seed"] == 9


def test_options_change_the_problem(toy, tmp_path):
    found = cli(
        "search", toy, "--algorithm", "random", "--evaluations", 3, "--out", tmp_path / "r",
        "--space", "block-wise", "--objective", "loss", "--set", "space.upper=0.5",
        "--set", "tasks.bars.batch_size=7", "--experts", "bars,dots", "--threads", 1,
        "--device", "cpu",
    )  # fmt: skip
    assert found.code == 0, found.err
    spec = json.loads((tmp_path / "r" / "run.json").read_text())["spec"]
    assert (spec["space"]["kind"], spec["space"]["upper"]) == ("block-wise", 0.5)
    assert [task["objective"] for task in spec["tasks"]] == ["loss", "loss"]
    assert spec["tasks"][1]["batch_size"] == 7
    assert list(spec["pool"]["experts"]) == ["bars", "dots"]
    x = [float(v) for k, v in rows(tmp_path / "r" / "front.csv")[0].items() if k.startswith("x:")]
    assert len(x) > 2
    assert 0 <= min(x) <= max(x) <= 0.5


def test_a_problem_without_a_test_split_is_announced(vit_folders, images, tmp_path):
    file = write_problem(tmp_path, vit_folders, images, splits=("search",))
    found = cli(
        "search", file, "--algorithm", "random", "--evaluations", 3, "--out", tmp_path / "r"
    )
    assert found.code == 0, found.err
    assert "no held-out test split" in found.out
    assert "No held-out test split" in (tmp_path / "r" / "summary.md").read_text()


# ------------------------------------------------------------------ killed and resumed

LONG = 400


@pytest.fixture(scope="module")
def killed(toy, tmp_path_factory):
    """Processes that were interrupted or killed at a random moment, and the run they were at."""
    root = tmp_path_factory.mktemp("killed")
    arguments = ("search", toy, "--evaluations", LONG, "--seed", 7)
    rng = np.random.default_rng()
    started = {
        name: (start_cli(*arguments, "--out", root / name), number, int(rng.integers(1, 150)))
        for name, number in (("ctrl-c", signal.SIGINT), ("kill", signal.SIGKILL))
    }
    ended = {}
    deadline = time.monotonic() + 120
    while len(ended) < len(started) and time.monotonic() < deadline:
        for name, (process, number, moment) in started.items():
            log = root / name / "evaluations.csv"
            if name not in ended and log.exists() and log.read_bytes().count(b"\n") > moment:
                process.send_signal(number)
                out, err = process.communicate(timeout=60)
                ended[name] = (process.returncode, out, err, moment)
        time.sleep(0.001)
    for process, _, _ in started.values():
        process.kill()
    assert set(ended) == set(started)
    whole = cli(*arguments, "--out", root / "whole")
    assert whole.code == 0, whole.err
    return root, arguments, ended


def test_ctrl_c_ends_in_one_sentence_that_says_how_to_go_on(killed):
    root, _, ended = killed
    code, out, err, moment = ended["ctrl-c"]
    assert code == 130, (moment, err)
    assert "Traceback" not in err
    assert "interrupted" in err
    assert "--resume" in err
    assert out == ""
    assert moment <= len(rows(root / "ctrl-c" / "evaluations.csv")) < LONG


@pytest.mark.parametrize("name", ["ctrl-c", "kill"])
def test_a_run_that_was_killed_resumes_to_the_same_result(killed, name):
    root, arguments, ended = killed
    assert "not finished" in refused("export", root / name, "--point", 1, "--to", root / "no")
    found = cli(*arguments, "--out", root / name, "--resume")
    assert found.code == 0, found.err
    assert same_run(root / "whole", root / name), ended[name]
    summaries = [(root / folder / "summary.md").read_text() for folder in ("whole", name)]
    tables = [text[text.index("## test") : text.index("## Reproduce")] for text in summaries]
    assert tables[0] == tables[1]
    assert "--resume" not in summaries[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--seed", 8), "its seed is 7, this command has 8"),
        (("--evaluations", LONG - 1), f"its evaluations is {LONG}, this command has {LONG - 1}"),
        (("--algorithm", "random"), "its algorithm is 'nsga2', this command has 'random'"),
        (("--tasks", "dots"), "its problem is 'toy', this command has 'toy (dots)'"),
        (("--space", "simplex"), "search space are other ones"),
        (("--objective", "loss"), "metrics or search space are other ones"),
        (("--force",), "give one of them"),
    ],
)
def test_resuming_another_run_is_refused(killed, change, message):
    root, arguments, _ = killed
    before = (root / "whole" / "evaluations.csv").read_bytes()
    assert message in refused(*arguments, *change, "--out", root / "whole", "--resume")
    assert (root / "whole" / "evaluations.csv").read_bytes() == before


def test_a_truncated_row_is_measured_again(killed, tmp_path):
    import shutil

    root, arguments, _ = killed
    folder = shutil.copytree(root / "whole", tmp_path / "cut")
    log = folder / "evaluations.csv"
    log.write_bytes(log.read_bytes()[:-25])
    assert cli(*arguments, "--out", folder, "--resume").code == 0
    assert same_run(root / "whole", folder)


# ------------------------------------------------------------------ bad input

SEARCHES = {
    "unknown algorithm": (("--algorithm", "nsga22"), "did you mean 'nsga2'?"),
    "unknown parameter": (("--algorithm", "nsga2:pop=3"), "unknown parameter of nsga2 'pop'"),
    "parameter without value": (("--algorithm", "nsga2:pop_size"), "nsga2:pop_size=value"),
    "parameter of another type": (("--algorithm", "nsga2:pop_size=many"), "pop_size"),
    "parameter out of range": (("--algorithm", "nsga2:pop_size=0"), "pop_size"),
    "grid of nothing": (("--algorithm", "grid:n_points=-3"), "n_points"),
    "unknown task": (("--tasks", "dotz"), "unknown task 'dotz'; did you mean 'dots'?"),
    "no task": (("--tasks", ""), "tasks: expected a list of names"),
    "a task twice": (("--tasks", "dots,dots"), "a name occurs twice"),
    "unknown expert": (("--experts", "rings"), "unknown expert 'rings'"),
    "unknown space": (("--space", "taskwise"), "did you mean 'task-wise'?"),
    "unknown objective": (
        ("--objective", "speed"),
        "keys 'tasks.0.objective', 'tasks.1.objective' should be 'accuracy', 'macro_f1', 'loss' or "
        "'ece', got 'speed'",
    ),
    "--set garbage": (("--set", "garbage"), "expected KEY=VALUE"),
    "--set without key": (("--set", "=3"), "expected KEY=VALUE"),
    "--set unknown key": (
        ("--set", "space.uper=1"), "with space.uper set: unknown key 'space.uper'"
    ),
    "--set wrong type": (("--set", "space.upper=high"), "key 'space.upper'"),
    "--set empty bounds": (("--set", "space.upper=-1"), "lower < upper"),
    "--set unknown task": (("--set", "tasks.rings.batch_size=3"), "'rings'"),
    "--set into a value": (("--set", "title.x=1"), "title is not a table"),
    "--set a base that is nowhere": (("--set", "pool.base=/nowhere"), "'/nowhere' is not a folder"),
    "--set data that is nowhere": (("--set", "tasks.dots.data=/no.npz"), "/no.npz"),
    "--set another head": (("--set", "tasks.dots.head=bars"), "classes"),
    "--set static of another length": (("--set", "space.static=[1,2,3]"), "static"),
    "--set selects nothing": (("--set", "space.select=attn"), "matches no tensor"),
    "unknown device": (
        ("--device", "abacus"), "device 'abacus' cannot be used here; this machine has auto or cpu"
    ),
    "negative seed": (("--seed", "-1"), "the seed must be 0 or more"),
    "seed in words": (("--seed", "one"), "'--seed'"),
    "no evaluations": (("--evaluations", "0"), "evaluations must be positive, got 0"),
    "negative evaluations": (("--evaluations", "-5"), "evaluations must be positive, got -5"),
    "no threads": (("--threads", "0"), "'--threads'"),
    "unknown option": (("--evalutions", "5"), "No such option"),
    "nothing to resume": (("--resume",), "holds no run"),
}  # fmt: skip


@pytest.mark.parametrize("what", SEARCHES)
def test_a_search_that_cannot_be_is_one_plain_message(toy, tmp_path, what):
    options, message = SEARCHES[what]
    text = refused("search", toy, "--evaluations", 20, "--out", tmp_path / "out", *options)
    assert message in text
    assert not (tmp_path / "out" / "front.csv").exists()


def test_unknown_problems_are_named_with_the_known_ones(tmp_path):
    for command in ("search", "describe"):
        text = refused(command, "vision44")
        assert "unknown problem 'vision44'; did you mean 'vision4'?" in text
        assert "vision4, vision5" in text
        assert "there is no problem file nowhere.toml" in refused(command, "nowhere.toml")
    (tmp_path / "bad.toml").write_text("this is [ no toml")
    assert "bad.toml is not valid TOML" in refused("describe", tmp_path / "bad.toml")
    (tmp_path / "study.toml").write_text('problems = ["vision4"]\nalgorithms = ["random"]\n')
    text = refused("compare", tmp_path / "study.toml")
    assert f"is a study file, not a problem file: moofusion compare --study {tmp_path}" in text


@pytest.mark.parametrize("place", ["/proc/nowhere/x", "file", "file/below"])
def test_a_folder_that_cannot_be_written(toy, run, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    pattern = "cannot be written|exists already|is a file"
    assert re.search(pattern, refused("search", toy, "--evaluations", 2, "--out", place))
    assert re.search(pattern, refused("export", run, "--point", 1, "--to", place))
    assert (tmp_path / "file").read_text() == "mine"


EXPORTS = {
    "no wish": ((), "say which model"),
    "unknown task": (("--preference", "dotz=1"), "did you mean 'dots'?"),
    "negative": (("--preference", "dots=-1,bars=1"), "numbers >= 0"),
    "all zero": (("--preference", "dots=0"), "all preference weights are zero"),
    "garbage": (("--preference", "the best"), "cannot read 'the best'"),
    "empty": (("--preference", ""), "cannot read"),
    "not a number": (("--preference", "dots=nan"), "cannot read 'dots=nan'"),
    "point 0": (("--point", "0"), "point 0 is not in the front"),
    "point beyond": (("--point", "1000"), "point 1000 is not in the front"),
    "point and preference": (("--point", "1", "--preference", "dots=1"), "not both"),
    "unknown way": (("--preference", "dots=1", "--by", "luck"), "unknown way to choose 'luck'"),
    "knee with preference": (("--preference", "dots=1", "--by", "knee"), "without a preference"),
    "unknown head": (("--point", "1", "--head", "base2"), "unknown task 'base2'"),
    "unknown dtype": (("--point", "1", "--dtype", "float8"), "unknown dtype 'float8'"),
}


@pytest.mark.parametrize("what", EXPORTS)
def test_an_export_that_cannot_be_is_one_plain_message(run, tmp_path, what):
    options, message = EXPORTS[what]
    assert message in refused("export", run, "--to", tmp_path / "out", *options)
    assert list(tmp_path.iterdir()) == []


def test_run_folders_that_cannot_be_exported(run, tmp_path):
    import shutil

    def export(folder):
        return refused("export", folder, "--point", 1, "--to", tmp_path / "out")

    assert "holds no run" in export(tmp_path / "nowhere")
    broken = shutil.copytree(run, tmp_path / "broken")
    text = (run / "run.json").read_text()
    for damaged in (text[:200], "[]", text.replace('"seconds"', '"secs"'), "", '{"result": []}'):
        (broken / "run.json").write_text(damaged)
        assert "run.json" in export(broken)
    (broken / "run.json").write_text(text)
    (broken / "front.csv").write_text("point\n")
    assert "front.csv was changed after the run had written it" in export(broken)
    settings = json.loads(text)
    del settings["result"]["digests"]
    (broken / "run.json").write_text(json.dumps(settings))
    assert "front.csv is not a front" in export(broken)
    assert "exists already" in refused("export", run, "--point", 1, "--to", broken)
    assert "not an export" in refused("export", run, "--point", 1, "--to", broken, "--force")


def test_zoo_builds_that_cannot_be(tmp_path):
    assert "unknown offline problem 'vision9'" in refused("zoo", "build", "vision9", "--data", "x")
    missing = refused("zoo", "build", "vision4", "--data", tmp_path / "no", "--out", tmp_path / "z")
    assert "does not exist" in missing


# ------------------------------------------------------------------ the other commands


def test_problems_are_listed():
    found = cli("problems")
    assert found.code == 0
    words = " ".join(re.sub("[│┃]", " ", found.out).split())
    assert "vision4" in words
    assert "vision5" in words
    for task in ("mnist", "fashion", "animals", "objects"):
        assert task in words
    for name, where in (("vision4", "local"), ("vision5", "to build"), ("gpt2_glue", "on the hub")):
        (line,) = (line for line in found.out.splitlines() if line.startswith(f"│ {name} "))
        assert line.split("│")[2].strip() == where
    assert all(len(line) <= 80 for line in found.out.splitlines())


def test_algorithms_are_listed_with_their_parameters():
    found = cli("algorithms")
    assert found.code == 0
    for name in ("nsga2", "nsga3", "random", "grid", "soup", "pop_size=20", "batch_size=20"):
        assert name in found.out


def test_describe_shows_sizes_vectors_and_anchors(toy):
    found = cli("describe", toy)
    assert found.code == 0, found.err
    problem = moofusion.get_problem(toy)
    layout, vectors = problem.evaluator.pool.layout, problem.evaluator.pool.vectors
    assert f"{layout.n_parameters:,} merged parameters" in found.out
    assert f"{len(layout.entries)} tensors" in found.out
    for value in (*vectors.norms(), vectors.cosines()[0, 1]):
        assert f"{value:.3f}" in found.out
    for value in (1 - problem.anchors().F).ravel():
        assert f"{100 * value:.1f} %" in found.out
    assert f"one evaluation: {2 * 48} samples" in found.out


def test_describe_takes_the_same_options_as_search(toy):
    found = cli("describe", toy, "--tasks", "bars", "--space", "tensor-wise")
    assert found.code == 0, found.err
    assert "dots" not in found.out
    assert "GroupWise(tensor" in found.out


@pytest.mark.parametrize(
    "command",
    [(), ("search",), ("export",), ("describe",), ("problems",), ("algorithms",), ("zoo",),
     ("zoo", "build")],
)  # fmt: skip
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(command, flag):
    found = cli(*command, flag)
    assert found.code == 0
    assert "Usage: moofusion" in found.out
    assert found.err == ""
    if command in (("search",), ("export",)):
        for option in ("--preference",) if command == ("export",) else ("--resume", "--tasks"):
            assert option in found.out


def test_version():
    found = cli("--version")
    assert (found.code, found.out.strip()) == (0, f"moofusion {moofusion.__version__}")


def test_no_command_shows_the_help():
    found = cli()
    assert "Usage: moofusion" in found.out + found.err


def test_a_failed_candidate_is_one_plain_warning(toy, run, tmp_path):
    stored = json.loads((run / "run.json").read_text())
    import shutil
    import warnings

    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "run.json").write_text(json.dumps(stored | {"threads": 64}))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        found = cli("search", toy, "--evaluations", 40, "--seed", 5, "--out", folder, "--resume")
    assert found.code == 0
    text = " ".join(found.err.split())
    assert "warning:" in text
    assert "was begun with threads = 64, now 1" in text
    assert ".py" not in text
