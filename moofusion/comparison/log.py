"""The evaluation log of one run: a CSV file that grows by a row per evaluation, and replays."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import RunError
from moofusion.problems import Evaluation, MergeProblem
from moofusion.tasks import Measurement, Task

__all__ = ["EvaluationLog"]

Array = NDArray[np.float64]
_FIXED = ("evaluation", "status", "cached", "cost", "seconds")


class EvaluationLog:
    """Writes every evaluation of a problem as it happens, and answers from what is there.

    The log is the checkpoint of a run: opened on an existing file, its rows go into the problem's
    cache, the algorithm runs again from its seed, meets the same candidates in the same order,
    and pays only from where it stopped. Numbers are written so that they read back bit for bit.

    Use as a context manager around the run. A log of another split than the one that is searched
    gets its rows by :meth:`add`.

    Args:
        path: The CSV file, or None to keep rows in memory only.
        problem: The problem whose evaluations are logged.
        split: Split that is evaluated; by default the one that is searched.

    Attributes:
        X: Decision vectors so far.
        evaluations: What was measured, in the same order.

    Raises:
        RunError: The file is of another problem, or the run does not repeat what is in it.

    Example:
        >>> import tempfile
        >>> from moofusion.testing import toy_problem
        >>> problem = toy_problem()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "log.csv"
        ...     with EvaluationLog(file, problem) as log:
        ...         _ = problem.evaluate([[0.3, 0.3, 0.3], [0.5, 0.2, 0.1]])
        ...     EvaluationLog(file, toy_problem()).n_replayed
        2
    """

    def __init__(
        self, path: Path | None, problem: MergeProblem, *, split: str | None = None
    ) -> None:
        self.path = path
        self.problem = problem
        self.split = split or problem.split
        self.X: list[Array] = []
        self.evaluations: list[Evaluation] = []
        self._tasks: Sequence[Task] = problem.tasks
        self._columns = [
            *_FIXED,
            *(f"x:{name}" for name in problem.space.names),
            *(f"{task.name}/{metric.name}" for task in self._tasks for metric in task.metrics),
        ]
        self._file: IO[str] | None = None
        self._replay: list[Array] = []
        if path is not None and path.exists():
            self._load(path)

    def __enter__(self) -> EvaluationLog:
        if self.path is not None:
            fresh = not self._replay
            self._file = self.path.open("w" if fresh else "a", newline="", encoding="utf-8")
            if fresh:
                csv.writer(self._file).writerow(self._columns)
                self._file.flush()
        if self.split == self.problem.split:
            self.problem.observers.append(self.add)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.add in self.problem.observers:
            self.problem.observers.remove(self.add)
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self.X)

    @property
    def n_replayed(self) -> int:
        """Rows that were in the file when it was opened."""
        return len(self._replay)

    @property
    def replayed_seconds(self) -> float:
        """Seconds that those rows took when they were measured."""
        return sum(e.seconds for e in self.evaluations[: self.n_replayed])

    def begins_with(self, X: Array) -> bool:
        """Whether the rows that were in the file are of the first of these candidates."""
        return np.array_equal(np.array(self._replay).reshape(-1, X.shape[1]), X[: self.n_replayed])

    def objectives(self) -> Array:
        """Objectives of every row, shape ``(N, M)``."""
        return self.problem.objectives(self.evaluations)

    def add(self, x: Array, evaluation: Evaluation, cached: bool) -> None:
        """Write one evaluation; a row that is in the file already must be of the same candidate."""
        index = len(self.X)
        if index < len(self._replay):
            if not np.array_equal(x, self._replay[index]):
                raise RunError(
                    f"{self.path}: evaluation {index + 1} of this run is another candidate than "
                    "the one in the log: the log is not from the same run, or the algorithm plans "
                    "with its whole budget and cannot be given a larger one; start afresh with "
                    "--force, or use another folder"
                )
        elif self._file is not None:
            csv.writer(self._file).writerow(self._row(index, x, evaluation, cached))
            self._file.flush()
        self.X.append(x.copy())
        self.evaluations.append(evaluation)

    def _row(self, index: int, x: Array, evaluation: Evaluation, cached: bool) -> list[Any]:
        metrics = [
            repr(float(found.metrics[metric.name]))
            for task, found in zip(self._tasks, evaluation.measurements, strict=True)
            for metric in task.metrics
        ]
        return [
            index + 1,
            "failed" if evaluation.failed else "ok",
            int(cached),
            repr(0.0 if cached else evaluation.cost),
            f"{evaluation.seconds:.6f}",
            *(repr(float(v)) for v in x),
            *metrics,
        ]

    def _load(self, path: Path) -> None:
        """Read the complete rows; a row cut off by a kill is dropped from the file."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        whole = text[: text.rfind("\n") + 1]
        try:
            rows = list(csv.reader(whole.splitlines()))
        except csv.Error as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        if not rows:
            return
        if rows[0] != self._columns:
            raise RunError(
                f"{path} is the log of another problem: its columns are {rows[0]}, expected "
                f"{self._columns}"
            )
        for number, row in enumerate(rows[1:], start=1):
            try:
                x, evaluation = self._parse(dict(zip(self._columns, row, strict=True)), number)
            except ValueError as error:
                raise RunError(
                    f"{path}: evaluation {number} cannot be read ({error}); remove this row and "
                    "all rows below it, or start afresh with --force"
                ) from error
            self.problem.remember(x, evaluation, split=self.split)
            self._replay.append(x)

    def _parse(self, row: dict[str, str], number: int) -> tuple[Array, Evaluation]:
        """Decision vector and evaluation of one row."""
        if row["evaluation"] != str(number) or row["status"] not in ("ok", "failed"):
            raise ValueError(f"it is numbered {row['evaluation']!r}, status {row['status']!r}")
        x = np.array([float(row[f"x:{name}"]) for name in self.problem.space.names])
        measurements = tuple(
            Measurement(
                {m.name: float(row[f"{task.name}/{m.name}"]) for m in task.metrics},
                task.passes(self.split)[0],
            )
            for task in self._tasks
        )
        cost = float(sum(m.n_samples for m in measurements))
        return x, Evaluation(measurements, row["status"] == "failed", cost, float(row["seconds"]))
