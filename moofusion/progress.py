"""Bars of what takes longer than two seconds, in a terminal or a notebook."""

from __future__ import annotations

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


@contextmanager
def search_progress(
    console: Console | None = None,
) -> Iterator[Callable[[str, int, int, float], None]]:
    """Bars of a search: evaluations, hypervolume and time left; by default on standard error."""
    with _bars(console) as bars:
        ids: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, volume: float) -> None:
            note = f"hypervolume {volume:.4f}" if stage == "search" else ""
            if stage not in ids:
                label = {"anchors": "base, experts", "search": "searching", "test": "testing"}[
                    stage
                ]
                ids[stage] = bars.add_task(label, total=total, note=note)
            bars.update(ids[stage], completed=done, total=total, note=note)

        yield report


@contextmanager
def study_progress(console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Bar of a study: evaluations of all its runs and time left."""
    with _bars(console) as bars:
        task = bars.add_task("evaluating", total=None, note="")
        yield lambda done, total: bars.update(task, completed=done, total=total or None)


@contextmanager
def training_progress(
    tasks: Sequence[str], console: Console | None = None
) -> Iterator[Callable[[int, int, Any], None]]:
    """Bar of a training: steps, the losses of the tasks and time left."""
    with _bars(console) as bars:
        bar = bars.add_task("training", total=None, note="")

        def report(done: int, total: int, losses: Any) -> None:
            note = " ".join(f"{task} {loss:.3f}" for task, loss in zip(tasks, losses, strict=True))
            bars.update(bar, completed=done, total=total, note=note)

        yield report


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
