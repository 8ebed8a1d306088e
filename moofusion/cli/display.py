"""What the command line shows: consoles, bars, warnings."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from moofusion.errors import EvaluationWarning

__all__ = [
    "command_line",
    "err",
    "escape",
    "screen",
    "search_progress",
    "show_warning",
    "study_progress",
    "training_progress",
]

screen = Console()
err = Console(stderr=True)


@contextmanager
def search_progress() -> Iterator[Callable[[str, int, int, float], None]]:
    """Bars of a search: evaluations, hypervolume and time left."""
    with _bars() as bars:
        ids: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, volume: float) -> None:
            note = f"hypervolume {volume:.4f}" if stage == "search" else ""
            if stage not in ids:
                label = {"anchors": "anchors", "search": "searching", "test": "testing"}[stage]
                ids[stage] = bars.add_task(label, total=total, note=note)
            bars.update(ids[stage], completed=done, total=total, note=note)

        yield report


@contextmanager
def study_progress() -> Iterator[Callable[[int, int], None]]:
    """Bar of a study: evaluations of all its runs and time left."""
    with _bars() as bars:
        task = bars.add_task("evaluating", total=None, note="")
        yield lambda done, total: bars.update(task, completed=done, total=total or None)


@contextmanager
def training_progress(tasks: Sequence[str]) -> Iterator[Callable[[int, int, Any], None]]:
    """Bar of a training: steps, the losses of the tasks and time left."""
    with _bars() as bars:
        bar = bars.add_task("training", total=None, note="")

        def report(done: int, total: int, losses: Any) -> None:
            note = " ".join(f"{task} {loss:.3f}" for task, loss in zip(tasks, losses, strict=True))
            bars.update(bar, completed=done, total=total, note=note)

        yield report


def _bars() -> Progress:
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings of moofusion as one plain line, those of other packages as Python shows them."""
    if category in (UserWarning, EvaluationWarning):
        err.print(f"[yellow]warning:[/] {escape(str(message))}", soft_wrap=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def command_line() -> str:
    """The command that was typed, for the footer of reports."""
    return shlex.join(["moofusion", *sys.argv[1:]])


def escape(text: str) -> str:
    """Text whose brackets are not markup."""
    return text.replace("[", r"\[")
