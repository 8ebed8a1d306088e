"""A front of merged models: decision vectors with what was measured of them."""

from __future__ import annotations

import ast
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.comparison.decision import choose, meeting
from moofusion.errors import RunError
from moofusion.problems import Evaluation, MergeProblem
from moofusion.problems.scale import normalized
from moofusion.tasks import Metric

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Front", "PointSet", "metric_table", "read_rows"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PointSet:
    """Models with their metrics on the search and the test split.

    Attributes:
        labels: Name of each model.
        tasks: Names of the M objectives.
        metrics: Their metrics.
        search: Metric values on the search split, shape ``(P, M)``.
        test: The same on the test split, or None where there is none.
        scale_search: Ideal and nadir objectives of the anchors, shape ``(2, M)``.
        scale_test: The same on test, or None.

    Example:
        >>> import moofusion
        >>> from moofusion.testing import toy_problem
        >>> found = moofusion.search(toy_problem(), "random", evaluations=5, seed=1)
        >>> found.references.labels
        ('base', 'a', 'b', 'c', 'average', 'task arithmetic 0.3')
        >>> found.references.values("test").shape
        (6, 3)
    """

    labels: tuple[str, ...]
    tasks: tuple[str, ...]
    metrics: tuple[Metric, ...]
    search: Array
    test: Array | None
    scale_search: Array
    scale_test: Array | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that were measured."""
        return ("search",) if self.test is None else ("search", "test")

    def values(self, split: str = "search") -> Array:
        """Metric values on a split, shape ``(P, M)``.

        Raises:
            RunError: The models were not measured on it.
        """
        values = self.search if split == "search" else self.test
        if values is None:
            raise RunError(f"these models were not measured on the {split!r} split")
        return values

    def objectives(self, split: str = "search") -> Array:
        """Objectives to minimize, shape ``(P, M)``."""
        return self._objectives(self.values(split))

    def normalized(self, split: str = "search") -> Array:
        """Objectives scaled by the split's anchors: 0 is the best anchor, 1 the worst."""
        scale = self.scale_search if split == "search" else self.scale_test
        assert scale is not None
        return normalized(self.objectives(split), *scale)

    def _objectives(self, values: Array) -> Array:
        columns = [[m.objective(v) for v in values[:, j]] for j, m in enumerate(self.metrics)]
        return np.array(columns).T.reshape(values.shape)


@dataclass(frozen=True)
class Front(PointSet):
    """The non-dominated models of a search.

    Attributes:
        X: Decision vectors, shape ``(P, n_var)``.
        variables: Names of the variables.
        cost: Cost units of each evaluation on the search split, shape ``(P,)``.
        folders: For each model the folder of a checkpoint that is no merge (its row of X is NaN),
            empty for a merge; nothing at all where all are merges.
        parameters: For each searched parameter of the merge method, by the name of its variable,
            the value of each model: numbers, whole numbers, names; None for what is no merge.

    Example:
        >>> import moofusion
        >>> from moofusion.testing import toy_problem
        >>> front = moofusion.search(toy_problem(), "random", evaluations=20, seed=1).front
        >>> front.splits, front.tasks
        (('search', 'test'), ('a', 'b', 'c'))
        >>> front.values("test").shape == (len(front), 3)
        True
        >>> index = front.choose("a=0.7,b=0.3")  # of the model for this preference
    """

    X: Array
    variables: tuple[str, ...]
    cost: Array
    folders: tuple[str, ...] = ()
    parameters: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def folder(self, index: int) -> str:
        """Folder of a model that is a checkpoint already; empty for a merge."""
        return self.folders[index] if self.folders else ""

    def choose(
        self,
        preference: str | Mapping[str, float] | Sequence[float] | None = None,
        *,
        by: str = "weighted",
        subject_to: str | None = None,
    ) -> int:
        """Index of the recommended model, by measured search values.

        Args:
            preference: Importance of the objectives.
            by: How it is used (see :func:`choose`).
            subject_to: Conditions on the metrics, ``"mnist>=0.95,animals>=0.4"`` (see
                :func:`meeting`).
        """
        among = None
        if subject_to is not None:
            values = self.values("search")
            among = meeting(subject_to, values, names=self.tasks, metrics=self.metrics)
        return choose(self.normalized("search"), preference, names=self.tasks, by=by, among=among)

    def table(self) -> pd.DataFrame:
        """One row per model: metrics on both splits, decision vector, searched parameters, cost."""
        import pandas as pd

        columns: dict[str, Any] = {"point": list(self.labels)}
        for split in self.splits:
            for j, task in enumerate(self.tasks):
                columns[f"{task}:{split}"] = self.values(split)[:, j]
        for j, name in enumerate(self.variables):
            columns[f"x:{name}"] = self.X[:, j]
        columns |= {name: pd.Series(found, dtype=object) for name, found in self.parameters.items()}
        columns["cost"] = self.cost
        if any(self.folders):
            columns["checkpoint"] = list(self.folders)
        return pd.DataFrame(columns)

    def _repr_html_(self) -> str:
        html: str = self.table().to_html(index=False, float_format="{:.4f}".format)
        return html

    def to_csv(self, path: Path) -> None:
        """Write :meth:`table`; numbers read back bit for bit."""
        self.table().to_csv(path, index=False, lineterminator="\n")

    @classmethod
    def from_csv(cls, path: Path, like: PointSet) -> Front:
        """Read a front back; tasks, metrics and scales are those of `like`.

        Raises:
            RunError: The file is missing or has other columns.
        """
        rows = read_rows(path)
        if not rows:
            raise RunError(f"{path} is not a front written by moofusion (it holds no model)")
        variables = tuple(k[2:] for k in rows[0] if k and k.startswith("x:"))

        def column(keys: Sequence[str]) -> Array:
            return np.array([[float(row[key]) for key in keys] for row in rows])

        try:
            test = None
            if like.test is not None:
                test = column([f"{task}:test" for task in like.tasks])
            return cls(
                tuple(row["point"] for row in rows),
                like.tasks,
                like.metrics,
                column([f"{task}:search" for task in like.tasks]),
                test,
                like.scale_search,
                like.scale_test,
                column([f"x:{name}" for name in variables]),
                variables,
                column(["cost"]).ravel(),
                parameters={
                    name: tuple(_read(row[name]) for row in rows)
                    for name in variables
                    if name in rows[0]
                },
            )
        except (KeyError, ValueError, TypeError) as error:
            raise RunError(f"{path} is not a front written by moofusion ({error})") from error


def _read(text: str) -> Any:
    """A parameter of a merge method from its text in a table."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text or None


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file as text, so that numbers can be read back bit for bit."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def metric_table(problem: MergeProblem, evaluations: Sequence[Evaluation]) -> Array:
    """Values of the optimized metrics, shape ``(P, M)``; NaN for failed evaluations."""
    return np.array(
        [
            [
                np.nan if evaluation.failed else found.metrics[task.objective.name]
                for task, found in zip(problem.tasks, evaluation.measurements, strict=True)
            ]
            for evaluation in evaluations
        ]
    ).reshape(len(evaluations), problem.n_obj)
