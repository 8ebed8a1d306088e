"""The command line of studies: compare, status, report, and export from a study."""

import json
import signal
import time

import pytest
from runs import cli, start_cli, write_problem

from moofusion.comparison import Store, StudyData

ALGORITHMS = "nsga2:pop_size=4,sampling=box,grid"


@pytest.fixture(scope="module")
def toy(tmp_path_factory, vit_folders, images):
    return write_problem(tmp_path_factory.mktemp("toy"), vit_folders, images)


def compare(toy, store, *more):
    return cli(
        "compare", toy, "--algorithms", ALGORITHMS, "--seeds", 2, "--evaluations", 8,
        "--store", store, *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(toy, tmp_path_factory):
    """A finished study. Read only."""
    store = tmp_path_factory.mktemp("study") / "study.db"
    found = compare(toy, store, "--front-size", 5)
    assert found.code == 0, found.err
    return store


def test_compare_runs_what_was_asked_for_and_the_controls(study, toy):
    data = StudyData.read(study)
    algorithms = ["nsga2:pop_size=4,sampling=box", "grid", "random", "soup"]
    assert list(dict.fromkeys(run.cell.algorithm for run in data.runs)) == algorithms
    assert len(data.runs) == 8
    assert max(len(run.reported) for run in data.runs) <= 5
    again = compare(toy, study)
    assert again.code == 0
    for name in ("nsga2:pop_size=4,sampli", "grid", "random", "soup"):
        assert name[:5] in again.out
    table = data.table()
    for value in table["HV test"]:
        assert f"{value:.4f}" in again.out
    assert f"moofusion report {study}" in again.out.replace("\n", "")


def test_controls_can_be_declined(toy, tmp_path):
    found = cli(
        "compare", toy, "--algorithms", "grid", "--seeds", "4,", "--evaluations", 3,
        "--store", tmp_path / "s.db", "--no-controls",
    )  # fmt: skip
    assert found.code == 0, found.err
    with Store(tmp_path / "s.db") as store:
        assert [(c.algorithm, c.seed) for c in store.cells()] == [("grid", 4)]


def test_status_counts(study):
    found = cli("status", study)
    assert found.code == 0
    assert "budget: evaluations=8" in found.out
    row = next(line for line in found.out.splitlines() if "random" in line)
    assert [cell.strip() for cell in row.split("│")[3:7]] == ["2 of 2", "0", "0", "16"]
    assert max(map(len, found.out.splitlines())) <= 80


def test_status_watches_a_study_while_it_runs(toy, tmp_path):
    store = tmp_path / "s.db"
    process = start_cli(
        "compare", toy, "--algorithms", "random", "--seeds", 1, "--evaluations", 30,
        "--store", store, "--no-controls", "--threads", 1,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not store.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    found = cli("status", store, "--watch")
    process.communicate(timeout=60)
    assert found.code == 0, found.err
    assert "1 of 1" in found.out


def test_an_interrupted_comparison_says_how_to_go_on(toy, tmp_path):
    store = tmp_path / "s.db"
    options = (
        "compare", toy, "--algorithms", "random:batch_size=1", "--seeds", 1,
        "--evaluations", 4000, "--store", store, "--no-controls", "--threads", 1,
    )  # fmt: skip
    process = start_cli(*options)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if store.exists() and "running" in cli("status", store).out:
            with Store(store) as opened:
                if any(cell.evaluations > 3 for cell in opened.cells()):
                    break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on where it stopped" in " ".join(err.split())
    assert "Traceback" not in err
    assert "1 runs to do, evaluations=4000 each: about " in " ".join(err.split())
    with Store(store) as opened:
        assert [cell.status for cell in opened.cells()] == ["pending"]


def test_report_and_export_of_a_study(study, toy, tmp_path):
    pytest.importorskip("plotly", reason="the extra [report] is not installed")
    found = cli("report", study, "--out", tmp_path / "report")
    assert found.code == 0, found.err
    names = {file.name for file in (tmp_path / "report").rglob("*")}
    assert {"report.html", "report.md", "toy-algorithms.tex", "toy-anytime.svg"} <= names
    footer = (tmp_path / "report" / "report.md").read_text()
    assert "--front-size 5" in footer or "front_size = 5" in footer

    out = tmp_path / "merged"
    done = cli(
        "export", study, "--preference", "dots=1", "--subject-to", "bars>=1%",
        "--algorithm", "random", "--to", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    card = (out / "README.md").read_text()
    assert "subject to bars>=1%" in card
    assert json.loads((out / "merge.json").read_text())["settings"]["algorithm"] == "random"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--subject-to", "bars>=101%"], "no model of the front meets bars >= 101.0 %"),
        (["--subject-to", "bars>1"], "expected a form such as dots>=0.9"),
        (
            ["--problem", "toi", "--by", "knee"],
            "unknown problem of this study 'toi'; did you mean 'toy'?",
        ),
        ([], "say which model"),
    ],
)
def test_exports_that_cannot_be(study, tmp_path, more, message):
    found = cli("export", study, "--to", tmp_path / "out", *more)
    assert found.code == 2
    assert message in " ".join(found.err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["compare"], "say what to compare on"),
        (["compare", "vision4", "--study", "x.toml"], "give problems or --study, not both"),
        (["compare", "TOY", "--seeds", "many"], "expected a number of seeds"),
        (["compare", "TOY", "--cost", "5", "--evaluations", "5"], "exactly one budget"),
        (["compare", "TOY", "--algorithms", "nsga9"], "unknown algorithm 'nsga9'"),
        (["status", "nothing.db"], "there is no store"),
        (["report", "nothing.db"], "there is no store"),
    ],
)
def test_mistakes_are_one_sentence(toy, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    found = cli(*[toy if word == "TOY" else word for word in args])
    assert found.code == 2
    assert message in " ".join(found.err.split())
    assert "Traceback" not in found.err
