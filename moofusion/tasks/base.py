"""What a task is: data in splits, a head, metrics with a direction, and perhaps a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError, DataError, UnknownNameError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["SPLITS", "Measurement", "Metric", "Task"]

#: *train* feeds gradient methods, *search* is what optimizers see, *test* is for the report alone.
SPLITS = ("train", "search", "test")


@dataclass(frozen=True)
class Metric:
    """A measured quantity and how it is turned into an objective to minimize.

    Attributes:
        name: Its name.
        direction: ``"max"`` or ``"min"``.
        best: For ``"max"``, the value from which the objective is subtracted (1 for accuracy).
        worst: The objective of a model that failed, or None if there is no natural worst.
        percent: Whether people read it in percent.

    Example:
        >>> accuracy = Metric("accuracy", best=1.0, worst=1.0, percent=True)
        >>> accuracy.text(0.913), round(accuracy.objective(0.913), 3)
        ('91.3 %', 0.087)
    """

    name: str
    direction: str = "max"
    best: float = 0.0
    worst: float | None = None
    percent: bool = False

    def __post_init__(self) -> None:
        if self.direction not in ("max", "min"):
            raise ConfigurationError(
                f"metric {self.name!r}: direction must be 'max' or 'min', got {self.direction!r}"
            )

    def objective(self, value: float) -> float:
        """Objective to minimize: ``best - value`` for ``"max"``, the value itself for ``"min"``."""
        return self.best - value if self.direction == "max" else value

    def value(self, objective: float) -> float:
        """Inverse of :meth:`objective`."""
        return self.best - objective if self.direction == "max" else objective

    def text(self, value: float, *, unit: bool = True) -> str:
        """A value for people: ``"97.3 %"`` (``"97.3"`` without the unit), or four digits."""
        if self.percent:
            return f"{100 * value:.1f}" + (" %" if unit else "")
        return f"{value:.4f}"

    @property
    def objective_name(self) -> str:
        """Name of the objective: ``"error"`` for accuracy, else the metric's with its sign."""
        if self.direction == "min":
            return self.name
        return "error" if self.name == "accuracy" else f"{self.best:g} - {self.name}"


ACCURACY = Metric("accuracy", "max", best=1.0, worst=1.0, percent=True)
MACRO_F1 = Metric("macro_f1", "max", best=1.0, worst=1.0, percent=True)
LOSS = Metric("loss", "min")
ECE = Metric("ece", "min", worst=1.0, percent=True)


@dataclass(frozen=True)
class Measurement:
    """What one evaluation of one model on one split gave.

    Attributes:
        metrics: Value of every metric of the task.
        n_samples: Number of samples that went through a model: what :meth:`Task.passes` announces.

    Example:
        >>> Measurement({"accuracy": 0.9, "loss": float("nan")}, 100).is_finite
        False
    """

    metrics: Mapping[str, float]
    n_samples: int

    @property
    def is_finite(self) -> bool:
        """Whether every metric is a finite number."""
        return bool(np.isfinite(list(self.metrics.values())).all())


class Task(ABC):
    """Base class of tasks.

    Args:
        name: Name of the task, used for objectives, tables and preferences.
        objective: Name of the metric that is optimized.
        head: Name of the module of the pool that carries this task's head; by default the expert
            of the same name where there is one, else the base.

    A subclass lists its `metrics` and implements :meth:`has_split`, :meth:`n_samples` and
    :meth:`evaluate`; with :meth:`loss` it also serves gradient methods. One whose samples go
    through the model more than once says so in :meth:`passes`.

    Example:
        >>> class Norm(Task):
        ...     metrics = (Metric("norm", direction="min"),)
        ...     def has_split(self, split):
        ...         return True
        ...     def n_samples(self, split):
        ...         return 0
        ...     def evaluate(self, module, split):
        ...         norm = sum(float(p.detach().square().sum()) for p in module.parameters()) ** 0.5
        ...         return Measurement({"norm": norm}, 0)
        >>> import torch
        >>> layer = torch.nn.Linear(3, 1, bias=False)
        >>> _ = torch.nn.init.constant_(layer.weight, 2.0)
        >>> round(Norm("small").evaluate(layer, "search").metrics["norm"], 3)
        3.464
    """

    metrics: tuple[Metric, ...] = ()

    def __init__(self, name: str, *, objective: str | None = None, head: str | None = None) -> None:
        self.name = name
        self.head = head
        known = {metric.name: metric for metric in self.metrics}
        if objective is not None and objective not in known:
            raise UnknownNameError(f"metric of task {name!r}", objective, known)
        self.objective = known[objective] if objective else self.metrics[0]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{s}={self.n_samples(s)}" for s in SPLITS if self.has_split(s))
        return f"{type(self).__name__}({self.name!r}, objective={self.objective.name}, {sizes})"

    @abstractmethod
    def has_split(self, split: str) -> bool:
        """Whether the task holds data for `split`."""

    @abstractmethod
    def n_samples(self, split: str) -> int:
        """Number of samples of `split`."""

    @abstractmethod
    def evaluate(self, module: nn.Module, split: str) -> Measurement:
        """Measure `module` (the merged model with this task's head) on a whole split."""

    def prepare(self, device: torch.device) -> None:  # noqa: B027  (many tasks hold no data)
        """Make data resident on `device`; called once before anything is evaluated."""

    def loss(
        self, module: nn.Module, split: str, indices: NDArray[np.int64] | None = None
    ) -> Tensor:
        """Mean differentiable loss over the samples `indices` of `split` (None: all of them)."""
        raise ConfigurationError(
            f"task {self.name!r} ({type(self).__name__}) has no differentiable loss, which "
            "gradient-based methods need"
        )

    def passes(
        self, split: str, indices: NDArray[np.int64] | None = None, *, gradient: bool = False
    ) -> tuple[int, int]:
        """What goes through a model: forward only, and forward and backward; the axis of cost.

        Every sample once, unless a subclass says otherwise.

        Args:
            split: What is measured.
            indices: The samples; None for all.
            gradient: Of :meth:`loss` with its gradient, instead of :meth:`evaluate`.
        """
        count = self.n_samples(split) if indices is None else len(indices)
        return (0, count) if gradient else (count, 0)

    def fingerprint(self, split: str) -> str:
        """Hash of what :meth:`evaluate` would see; equal fingerprints, equal measurements."""
        return f"{type(self).__name__}:{self.name}"

    def require(self, split: str) -> None:
        """Raise unless `split` is there.

        Raises:
            UnknownNameError: There is no split of that name.
            DataError: This task was built without it.
        """
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
        if not self.has_split(split):
            raise DataError(f"task {self.name!r} was built without a {split!r} split")
