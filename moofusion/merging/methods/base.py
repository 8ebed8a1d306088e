"""What a merge method is: parameters, and a way from coefficients to weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moofusion.errors import ConfigurationError
from moofusion.merging.linear import LinearMerge
from moofusion.weights.layout import Partition
from moofusion.weights.vectors import TaskVectors

__all__ = ["Linear", "Merge", "MergeMethod", "TaskVectorTransform"]

Array = NDArray[np.float64]


class Merge(Protocol):
    """Weights as a function of the coefficients.

    Attributes:
        vectors: Base and task vectors.
        partition: Groups of the flat buffer, one row of coefficients each.
    """

    vectors: TaskVectors
    partition: Partition

    def __call__(self, coefficients: Array, *, out: Tensor) -> Tensor:
        """Write the weights for coefficients ``(G, K)`` to `out` ``(D,)`` and return it."""
        ...


@dataclass(frozen=True)
class MergeMethod(ABC):
    """Base class of all merge methods; the fields of a subclass are its parameters.

    Attributes:
        name: Its name in problem files.
        title: Its name in sentences.
        paper: Where it comes from.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(field.name for field in fields(cls))

    @property
    def table(self) -> dict[str, Any]:
        """The method as in a problem file: ``{"method": name, **parameters}``."""
        return {"method": self.name} | {k: getattr(self, k) for k in self.parameter_names()}

    @property
    def sentence(self) -> str:
        """How the weights come about, for model cards."""
        values = ", ".join(f"{k} {v}" for k, v in self.table.items() if k != "method")
        return f"{self.title} ({self.paper}{'; ' + values if values else ''})"

    @abstractmethod
    def bind(self, vectors: TaskVectors, partition: Partition, *, static: Array) -> Merge:
        """The method on these task vectors.

        Args:
            vectors: Base and task vectors; not changed.
            partition: Groups of the flat buffer, one row of coefficients each.
            static: Coefficients of what no group covers, shape ``(K,)``.
        """


class TaskVectorTransform(MergeMethod):
    """Methods that rewrite the task vectors first; the merge stays linear in the coefficients."""

    @abstractmethod
    def __call__(self, vectors: TaskVectors) -> TaskVectors:
        """The rewritten task vectors.

        The base is kept. The residue is kept where one-hot coefficients still give the experts,
        and is empty otherwise. Equal coefficients lambda give the merge that the paper of the
        method defines for the scale lambda.
        """

    def bind(self, vectors: TaskVectors, partition: Partition, *, static: Array) -> LinearMerge:
        """The linear merge of the rewritten task vectors."""
        return LinearMerge(self(vectors), partition, static=static)

    @property
    def sentence(self) -> str:
        """How the weights come about, for model cards."""
        return (
            f"{super().sentence}: base + sum over experts of coefficient x task vector, where the "
            "task vectors (expert - base) were rewritten by the method"
        )


@dataclass(frozen=True)
class Linear(TaskVectorTransform):
    """Task arithmetic: ``theta_0 + sum_k L[g, k] tau_k[g]``, nothing rewritten.

    Ilharco et al. 2023, Editing models with task arithmetic (arXiv:2212.04089). Every tensor is
    treated alike; one-hot coefficients give that expert bit for bit.
    """

    name: ClassVar[str] = "linear"
    title: ClassVar[str] = "task arithmetic"
    paper: ClassVar[str] = "Ilharco et al. 2023, arXiv:2212.04089"

    def __call__(self, vectors: TaskVectors) -> TaskVectors:
        """The task vectors as they are."""
        return vectors

    @property
    def sentence(self) -> str:
        """How the weights come about, for model cards."""
        return "task arithmetic: base + sum over experts of coefficient x (expert - base)"


def no_residue(vectors: TaskVectors) -> tuple[tuple[Tensor, Tensor], ...]:
    """Residue of task vectors that no longer lead to the experts."""
    device = vectors.base.device
    empty = torch.empty(0, dtype=torch.int32, device=device), torch.empty(0, device=device)
    return (empty,) * vectors.n_experts


def check_share(name: str, value: float, *, zero: bool = False) -> None:
    """Raise unless `value` is a share in (0, 1], or [0, 1] with `zero`."""
    if not (0 <= value <= 1) or (value == 0 and not zero):
        raise ConfigurationError(
            f"{name} is a share of the entries, in {'[' if zero else '('}0, 1]; got {value}"
        )


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise unless `value` is one of `known`."""
    if value not in known:
        raise ConfigurationError(f"{name} is one of {', '.join(known)}; got {value!r}")
