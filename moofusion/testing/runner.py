"""The contract of runners: ways to run the cells of a study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moofusion.comparison import Study
from moofusion.comparison.store import Store
from moofusion.errors import RunError
from moofusion.testing.standins import toy_problem

__all__ = ["RunnerContract"]

Runner = Callable[[Study], Any]


class RunnerContract:
    """What a study promises however its cells are run: by a joblib backend, on a cluster.

    A subclass gives the fixture `runner`, a function that runs a study to its end.

    Example:
        >>> class TestThreads(RunnerContract):
        ...     @pytest.fixture
        ...     def runner(self):
        ...         return lambda study: study.run(n_jobs=2, backend="threading")
    """

    @pytest.fixture
    def expected(self, tmp_path: Path) -> Any:
        """The rows of a study whose cells ran one after the other."""
        return _rows(_study(tmp_path / "alone.db").run(threads=1))

    def test_the_table_is_that_of_single_runs(
        self, runner: Runner, tmp_path: Path, expected: Any
    ) -> None:
        """Every cell is done, with the same candidates and metrics bit for bit."""
        study = _study(tmp_path / "study.db")
        runner(study)
        assert [cell.status for cell in study.cells()] == ["done"] * 4
        assert _rows(study) == expected

    def test_running_again_adds_nothing(self, runner: Runner, tmp_path: Path) -> None:
        """Cells that are done stay as they are."""
        study = _study(tmp_path / "study.db")
        runner(study)
        before = _rows(study)
        runner(study)
        assert _rows(study) == before

    def test_a_failing_run_is_named_and_the_others_are_finished(
        self, runner: Runner, tmp_path: Path
    ) -> None:
        """One cell that cannot run is reported; the others do not suffer."""
        study = _study(tmp_path / "study.db", ["random:batch_size=4", _FAILING])
        with pytest.raises(RunError, match="did not finish"):
            runner(study)
        states = {(cell.algorithm, cell.status) for cell in study.cells()}
        assert states == {("random:batch_size=4", "done"), (_FAILING, "failed")}


# Refuses the task-wise space when it is set up: the only groups it could route are too coarse.
_FAILING = "pwemoe:steps=1"


def _study(path: Path, algorithms: list[str] | None = None) -> Study:
    return Study(
        toy_problem(("a", "b"), device="cpu"),
        algorithms or ["random:batch_size=4", "nsga2:pop_size=4"],
        seeds=2,
        evaluations=8,
        store=path,
        controls=False,
    )


def _rows(study: Study) -> list[Any]:
    """For each cell what it evaluated and found, without times."""
    with Store(study.path) as store:
        found = []
        for cell in sorted(study.cells(), key=lambda c: (c.algorithm, c.seed)):
            rows = [(row["number"], row["x"]) for row in store.evaluations(cell.id)]
            known = store.measurements(cell.problem, "search")
            values = [np.round(known[x][1], 12).tolist() for _, x in rows]
            found.append((cell.algorithm, cell.seed, rows, values))
    return found
