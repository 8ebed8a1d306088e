"""Constraints on measured metrics: "never below 95 % of the base on this task"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.problems.evaluator import Evaluation
from moofusion.tasks import Task

__all__ = ["Constraint"]


@dataclass(frozen=True)
class Constraint:
    """A bound on one metric of one task.

    Attributes:
        task: Name of the task.
        at_least: Lower bound on the metric, or None.
        at_most: Upper bound on the metric, or None. Exactly one of the two is given.
        metric: Name of the metric; by default the one that is the task's objective.
        relative_to: ``"base"`` or the name of an expert: the bound is then a factor on that
            model's own value (``at_least=0.95, relative_to="base"``).

    Example:
        >>> Constraint("mnist", at_least=0.95, relative_to="base").task
        'mnist'
    """

    task: str
    at_least: float | None = None
    at_most: float | None = None
    metric: str | None = None
    relative_to: str | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ConfigurationError(
                f"constraint on task {self.task!r}: give exactly one of at_least and at_most"
            )

    def check(self, tasks: Sequence[Task], experts: Sequence[str]) -> None:
        """Raise unless the task, metric and model it names exist.

        Raises:
            UnknownNameError: One of the names is unknown.
        """
        by_name = {task.name: task for task in tasks}
        if self.task not in by_name:
            raise UnknownNameError("task in a constraint", self.task, by_name)
        metrics = [metric.name for metric in by_name[self.task].metrics]
        if self.metric is not None and self.metric not in metrics:
            raise UnknownNameError(f"metric of task {self.task!r}", self.metric, metrics)
        if self.relative_to is not None and self.relative_to not in ("base", *experts):
            raise UnknownNameError("model in a constraint", self.relative_to, ["base", *experts])

    def violation(
        self, found: Evaluation, index: int, task: Task, against: Evaluation | None
    ) -> float:
        """How far the bound is missed (pymoo: feasible if <= 0).

        Args:
            found: The candidate.
            index: Position of the task among the measurements.
            task: The task.
            against: Evaluation of the model in `relative_to`.
        """
        metric = self.metric or task.objective.name
        if found.failed:
            return float("1e9")
        scale = 1.0 if against is None else against.measurements[index].metrics[metric]
        value = found.measurements[index].metrics[metric]
        if self.at_least is not None:
            return self.at_least * scale - value
        assert self.at_most is not None
        return value - self.at_most * scale
