"""What a study holds, as arrays: the log from which every indicator and table is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.comparison.cell import Budget
from moofusion.comparison.checkpoints import folder_of_key
from moofusion.comparison.quality import REFERENCE, hypervolume, nondominated
from moofusion.comparison.store import Cell, Store
from moofusion.comparison.thinning import thin
from moofusion.merging.methods.ranges import Range, range_from
from moofusion.problems.scale import normalized
from moofusion.tasks import Metric

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ProblemData", "RunData", "StudyData"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ProblemData:
    """A problem of a study, without its models.

    Attributes:
        fingerprint: Hash of weights, space and search data.
        title: Its name in tables.
        tasks: Names of the M objectives.
        objectives: The metric that each objective is.
        metrics: All metrics of each task, in stored order.
        variables: Names of the decision variables.
        held_out: Whether there is a test split.
        anchors: For each split the metric rows of base and experts.
        controls: For each split the metric rows of the merges that need no search.
        scales: For each split ideal and nadir objectives of the anchors, shape ``(2, M)``.
        spec: The problem file, if it came from one.
        searched: Searched parameters of the merge method, by the name of their variable.
    """

    fingerprint: str
    title: str
    tasks: tuple[str, ...]
    objectives: tuple[Metric, ...]
    metrics: tuple[tuple[Metric, ...], ...]
    variables: tuple[str, ...]
    held_out: bool
    anchors: dict[str, dict[str, Array]]
    controls: dict[str, dict[str, Array]]
    scales: dict[str, Array]
    spec: dict[str, Any] | None
    searched: Mapping[str, Range] = field(default_factory=dict)

    @classmethod
    def from_json(cls, fingerprint: str, title: str, stored: dict[str, Any]) -> ProblemData:
        """From the description in the store."""
        metrics = tuple(tuple(Metric(**m) for m in row) for row in stored["metrics"])
        objectives = tuple(
            next(m for m in row if m.name == name)
            for row, name in zip(metrics, stored["objectives"], strict=True)
        )

        def rows(models: dict[str, list[float]]) -> dict[str, Array]:
            return {name: np.array(values) for name, values in models.items()}

        return cls(
            fingerprint,
            title,
            tuple(stored["tasks"]),
            objectives,
            metrics,
            tuple(stored["variables"]),
            stored["held_out_test"],
            {split: rows(a["models"]) for split, a in stored["anchors"].items()},
            {split: rows(models) for split, models in stored["controls"].items()},
            {s: np.array([a["ideal"], a["nadir"]]) for s, a in stored["anchors"].items()},
            stored["spec"],
            {name: range_from(table) for name, table in stored.get("searched", {}).items()},
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that were measured."""
        return ("search", "test") if self.held_out else ("search",)

    @cached_property
    def _columns(self) -> list[int]:
        """Where each objective's metric stands in a stored row."""
        columns, start = [], 0
        for row, objective in zip(self.metrics, self.objectives, strict=True):
            columns.append(start + row.index(objective))
            start += len(row)
        return columns

    def values(self, rows: Array) -> Array:
        """Metric values of the objectives, shape ``(P, M)``, from stored rows."""
        return np.atleast_2d(rows)[:, self._columns]

    def normalized(self, values: Array, split: str) -> Array:
        """Objectives scaled by the split's anchors, from metric values ``(P, M)``."""
        F = np.array(
            [[m.objective(v) for v in values[:, j]] for j, m in enumerate(self.objectives)]
        ).T.reshape(values.shape)
        return normalized(F, *self.scales[split])


@dataclass(frozen=True)
class RunData:
    """The log of one run.

    Attributes:
        problem: The problem.
        cell: Algorithm, seed, budget, state.
        X: Decision vectors in order, shape ``(N, n_var)``; NaN for what is no merge.
        values: Metric values of the objectives on the search split, shape ``(N, M)``.
        usable: Whether each evaluation succeeded and meets the constraints, shape ``(N,)``.
        cost: Cost units of each evaluation and of the gradients before it, shape ``(N,)``.
        elapsed: Wall-clock seconds at each evaluation, shape ``(N,)``.
        test: Metric values on the test split by index of the evaluation.
        final: Indices of the set that the algorithm itself returned.
        optimizer_seconds: Wall-clock seconds not spent on evaluations.
        device_seconds: Device seconds of the same, shape ``(N,)``.
        machine: Device, threads and package versions of the run.
        folders: For each evaluation the folder of a checkpoint that is no merge (its row of X is
            NaN), empty for a merge.
    """

    problem: ProblemData
    cell: Cell
    X: Array
    values: Array
    usable: NDArray[np.bool_]
    cost: Array
    elapsed: Array
    test: dict[int, Array]
    final: NDArray[np.int64]
    optimizer_seconds: float
    device_seconds: Array
    machine: dict[str, Any]
    folders: tuple[str, ...]

    @cached_property
    def normalized(self) -> Array:
        """Normalized objectives on the search split, shape ``(N, M)``; inf where not usable."""
        F = np.full(self.values.shape, np.inf)
        F[self.usable] = self.problem.normalized(self.values[self.usable], "search")
        return F

    @cached_property
    def front(self) -> NDArray[np.int64]:
        """Indices of all non-dominated evaluations."""
        candidates = np.flatnonzero(self.usable)
        if not len(candidates):
            return candidates
        return np.asarray(candidates[nondominated(self.normalized[candidates])])

    @cached_property
    def reported(self) -> NDArray[np.int64]:
        """Indices of the front that the run measured on test: all of it, or thinned.

        What other runs measured of its models does not count: a run is the same in every study.
        """
        front, size = self.front, self.cell.front_size
        if not self.problem.held_out:
            return front
        if size is not None and len(front):
            front = front[thin(self.normalized[front], size)]
        return np.array([i for i in front if i in self.test], np.int64)

    def reported_values(self, split: str) -> Array:
        """Metric values of the reported front on a split."""
        if split == "search":
            return self.values[self.reported]
        rows = [self.test[int(i)] for i in self.reported]
        return np.array(rows).reshape(len(rows), len(self.problem.tasks))

    def hypervolume(self, split: str = "search") -> float:
        """Normalized hypervolume of the reported front, reference point 1.1."""
        F = self.problem.normalized(self.reported_values(split), split)
        return hypervolume(F, reference=REFERENCE)


@dataclass(frozen=True)
class StudyData:
    """All runs of a study, read from its store.

    Attributes:
        path: The store.
        problems: Problems by fingerprint, in order.
        runs: Finished and unfinished runs, by problem, algorithm, seed.

    Example:
        >>> import tempfile
        >>> from moofusion.comparison import Study
        >>> from moofusion.testing import toy_problem
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     study = Study(toy_problem(), ["random"], seeds=2, evaluations=5, controls=False,
        ...                   store=Path(folder) / "study.db")
        ...     data = StudyData.read(study.run(threads=1).path)
        >>> len(data.runs), data.runs[0].X.shape
        (2, (5, 3))
    """

    path: Path
    problems: dict[str, ProblemData]
    runs: tuple[RunData, ...]

    @classmethod
    def read(cls, path: str | Path) -> StudyData:
        """Read a store, which may be in use.

        Raises:
            RunError: There is no such file, or it is not a study.
        """
        with Store(path, create=False) as opened, opened.snapshot() as store:
            problems = {
                fingerprint: ProblemData.from_json(fingerprint, title, stored)
                for fingerprint, (title, stored) in store.problems().items()
            }
            known = {
                (f, split): store.measurements(f, split)
                for f, problem in problems.items()
                for split in problem.splits
            }
            runs = tuple(_run(store, c, problems[c.problem], known) for c in store.cells())
        return cls(Path(path), problems, runs)

    def of(self, problem: ProblemData, algorithm: str | None = None) -> list[RunData]:
        """Finished runs on a problem, by seed."""
        return [
            run
            for run in self.runs
            if run.problem is problem
            and run.cell.status == "done"
            and algorithm in (None, run.cell.algorithm)
        ]

    def algorithms(self, problem: ProblemData) -> list[str]:
        """Algorithms with finished runs on a problem, in order."""
        return list(dict.fromkeys(run.cell.algorithm for run in self.of(problem)))

    def table(self) -> pd.DataFrame:
        """Hypervolume of every algorithm on every problem: mean and deviation over seeds."""
        import pandas as pd

        rows = []
        for problem in self.problems.values():
            for algorithm in self.algorithms(problem):
                runs = self.of(problem, algorithm)
                row: dict[str, Any] = {
                    "problem": problem.title,
                    "algorithm": algorithm,
                    "seeds": len(runs),
                    "evaluations": int(np.mean([len(run.X) for run in runs])),
                }
                for split in problem.splits:
                    volumes = [run.hypervolume(split) for run in runs]
                    row[f"HV {split}"] = float(np.mean(volumes))
                    row[f"sd {split}"] = float(np.std(volumes, ddof=1)) if len(runs) > 1 else 0.0
                row["points"] = float(np.mean([len(run.front) for run in runs]))
                rows.append(row)
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        from moofusion.comparison.report.notebook import study_html

        return study_html(self)


def _run(
    store: Store,
    cell: Cell,
    problem: ProblemData,
    known: dict[tuple[str, str], dict[str, tuple[bool, list[float], float, float]]],
) -> RunData:
    rows = store.evaluations(cell.id)
    if Budget.parse(cell.budget).kind == "evaluations":
        rows = rows[: int(Budget.parse(cell.budget).limit)]
    search, test = known[problem.fingerprint, "search"], known.get((problem.fingerprint, "test"))
    stored = [search[row["x"]] for row in rows]
    n_metrics = sum(len(metrics) for metrics in problem.metrics)
    metrics = np.array([entry[1] for entry in stored]).reshape(len(rows), n_metrics)
    first = {row["x"]: i for i, row in reversed(list(enumerate(rows)))}
    tested = {
        i: problem.values(np.array(test[x][1]))[0]
        for x, i in first.items()
        if test is not None and x in test and not test[x][0]
    }
    final = [first[x] for x in store.final(cell.id) if x in first]
    folders = tuple(folder_of_key(row["x"]) for row in rows)
    X = np.full((len(rows), len(problem.variables)), np.nan)
    for i, row in enumerate(rows):
        if not folders[i]:
            X[i] = json.loads(row["x"])
    return RunData(
        problem,
        cell,
        X,
        problem.values(metrics),
        np.array([row["feasible"] and not e[0] for row, e in zip(rows, stored, strict=True)], bool),
        np.array([row["cost"] + row["gradient_cost"] for row in rows]),
        np.array([row["elapsed"] for row in rows]),
        tested,
        np.array(sorted(final), np.int64),
        store.timing(cell.id)[1],
        np.array(
            [
                row["gradient_seconds"] + (entry[3] if row["cost"] else 0.0)
                for row, entry in zip(rows, stored, strict=True)
            ]
        ),
        store.machine(cell.id),
        folders,
    )
