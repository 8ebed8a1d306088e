"""Bars of what takes longer than two seconds, in a terminal or a notebook; lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["search_progress", "study_progress", "training_progress"]

# Least time between two lines of what has no terminal.
_SECONDS = 5


@contextmanager
def search_progress(
    console: Console | None = None,
) -> Iterator[Callable[[str, int, int, float], None]]:
    """Bars of a search: evaluations, hypervolume and time left; by default on standard error."""
    with _bars(console) as bars:
        ids: dict[str, Any] = {}
        tenths = _Tenths(bars.console)
        labels = {"anchors": "base, experts", "search": "searching", "test": "testing"}

        def report(stage: str, done: int, total: int, volume: float) -> None:
            note = f"hypervolume {volume:.4f}" if stage == "search" else ""
            if stage not in ids:
                ids[stage] = bars.add_task(labels[stage], total=total, note=note)
            bars.update(ids[stage], completed=done, total=total, note=note)
            if stage != "anchors":
                tenths.show(labels[stage], done, total, note)

        yield report


@contextmanager
def study_progress(console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Bar of a study: evaluations of all its runs and time left."""
    with _bars(console) as bars:
        task = bars.add_task("evaluating", total=None, note="")
        tenths = _Tenths(bars.console)

        def report(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total or None)
            tenths.show("evaluating", done, total, "")

        yield report


@contextmanager
def training_progress(
    tasks: Sequence[str], console: Console | None = None
) -> Iterator[Callable[[int, int, Any], None]]:
    """Bar of a training: steps, the losses of the tasks and time left."""
    with _bars(console) as bars:
        bar = bars.add_task("training", total=None, note="")
        tenths = _Tenths(bars.console)

        def report(done: int, total: int, losses: Any) -> None:
            note = " ".join(f"{task} {loss:.3f}" for task, loss in zip(tasks, losses, strict=True))
            bars.update(bar, completed=done, total=total, note=note)
            tenths.show("training", done, total, note)

        yield report


class _Tenths:
    """Lines at tenths of the way, where there is no terminal that could show a bar."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._shown: dict[str, int] = {}
        self._last = time.monotonic()

    def show(self, label: str, done: int, total: int, note: str) -> None:
        if self.console.is_terminal or self.console.is_jupyter or not total:
            return
        tenth = 10 * done // total
        due = time.monotonic() - self._last > _SECONDS
        if self._shown.setdefault(label, tenth) < tenth < 10 and due:
            self._shown[label], self._last = tenth, time.monotonic()
            self.console.print(f"{label}: {done} of {total}  {note}".rstrip(), highlight=False)


def _bars(console: Console | None) -> Progress:
    columns = (
        TextColumn("{task.description:13}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console or Console(stderr=True))
