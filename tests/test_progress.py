"""What is shown of long work: bars on terminals, lines at tenths elsewhere."""

import io

import pytest
from rich.console import Console

from moofusion import progress


@pytest.fixture
def console(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", -1)
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def lines(console):
    return console.file.getvalue().splitlines()


def test_a_search_shows_lines_where_there_is_no_terminal(console):
    with progress.search_progress(console) as report:
        report("anchors", 2, 2, float("nan"))
        for done in range(31):
            report("search", done, 30, 0.5 + done / 100)
        for done in range(4):
            report("test", done, 3, float("nan"))
    written = lines(console)
    assert written[:9] == [
        f"searching: {3 * i} of 30  hypervolume {0.5 + 3 * i / 100:.4f}" for i in range(1, 10)
    ]
    assert written[9:11] == ["testing: 1 of 3", "testing: 2 of 3"]
    assert "30/30" in written[-2]


def test_a_study_without_a_known_total_shows_no_line(console):
    with progress.study_progress(console) as report:
        report(3, 0)
        report(5, 10)
        report(7, 10)
    assert lines(console)[:1] == ["evaluating: 7 of 10"]


def test_lines_keep_their_distance(console, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 60)
    with progress.training_progress(["a"], console) as report:
        for done in range(11):
            report(done, 10, [0.25])
    assert not [line for line in lines(console) if line.startswith("training:")]


def test_a_terminal_shows_bars_alone(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", -1)
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress.training_progress(["a"], terminal) as report:
        for done in range(11):
            report(done, 10, [0.25])
    assert "10/10" in terminal.file.getvalue()
    assert "of 10" not in terminal.file.getvalue()
