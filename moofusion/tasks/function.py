"""A task that is a plain function of the merged model: anybody's own metric in a few lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from moofusion.tasks.base import Measurement, Metric, Task

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FunctionTask"]


class FunctionTask(Task):
    """A measured number, whatever it is.

    Args:
        name: Name of the task.
        search: ``search(module) -> float``, called with the merged model in evaluation mode. It
            must give the same number for the same weights and leave the module as it found it.
        test: The same on held-out data; without it the task counts as not held out, and every
            table says so.
        direction: ``"max"`` if more is better, ``"min"`` if less is.
        best: For ``"max"``, the largest possible value (the objective is ``best - value``).
        worst: The objective of a model that failed, where there is a natural one.
        head: Module of the pool that is passed to the function.
        n_samples: Samples that one call sends through the model, for the cost axis.
        metric: Name of the number, for tables.

    Example:
        >>> from torch import nn
        >>> norm = FunctionTask("norm", lambda m: float(m.weight.norm()), direction="min")
        >>> norm.evaluate(nn.Linear(1, 1), "search").n_samples
        0
    """

    def __init__(
        self,
        name: str,
        search: Callable[[nn.Module], float],
        *,
        test: Callable[[nn.Module], float] | None = None,
        direction: str = "max",
        best: float = 0.0,
        worst: float | None = None,
        head: str | None = None,
        n_samples: int = 0,
        metric: str = "value",
    ) -> None:
        self.metrics = (Metric(metric, direction, best=best, worst=worst),)
        super().__init__(name, head=head)
        self._functions = {"search": search} | ({"test": test} if test else {})
        self._n_samples = n_samples

    def has_split(self, split: str) -> bool:
        """Whether there is a function for `split`."""
        return split in self._functions

    def n_samples(self, split: str) -> int:
        """Samples that one call sends through the model."""
        self.require(split)
        return self._n_samples

    def evaluate(self, module: nn.Module, split: str) -> Measurement:
        """Call the function of `split`."""
        import torch

        self.require(split)
        with torch.no_grad():
            value = float(self._functions[split](module))
        return Measurement({self.metrics[0].name: value}, self._n_samples)
