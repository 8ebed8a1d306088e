"""What a merge method is: parameters, and a way from coefficients to weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moofusion.errors import ConfigurationError
from moofusion.merging.linear import LinearMerge
from moofusion.merging.methods.ranges import Range
from moofusion.weights.layout import Partition
from moofusion.weights.vectors import TaskVectors

__all__ = [
    "MatrixTransform",
    "Merge",
    "MergeMethod",
    "Statistics",
    "TaskVectorTransform",
    "TensorTransform",
]

Array = NDArray[np.float64]


class Merge(Protocol):
    """Weights as a function of the coefficients.

    Attributes:
        vectors: Base and task vectors.
        partition: Groups of the flat buffer, one row of coefficients each.

    Example:
        >>> import torch
        >>> from moofusion.merging import make_method
        >>> from moofusion.testing import toy_pool
        >>> loaded = toy_pool().load()
        >>> merge = make_method("linear").bind(
        ...     loaded.vectors, loaded.layout.partition("model"), static=np.zeros(3))
        >>> weights = merge(np.full((1, 3), 0.3), out=torch.empty_like(loaded.vectors.base))
        >>> weights.shape == loaded.vectors.base.shape
        True
    """

    vectors: TaskVectors
    partition: Partition

    def __call__(self, coefficients: Array, *, out: Tensor) -> Tensor:
        """Write the weights for coefficients ``(G, K)`` to `out` ``(D,)`` and return it."""
        ...


class Statistics(Protocol):
    """What methods may ask about the experts on their own training data.

    Example:
        >>> from moofusion.testing import toy_problem
        >>> problem = toy_problem(merge={"method": "fisher", "samples": 8})
        >>> problem.evaluate([[0.5, 0.5, 0.5]]).shape  # asked for the Fisher information once
        (1, 3)
    """

    def fisher(self, samples: int, seed: int) -> Tensor:
        """Diagonal Fisher information of every expert, shape ``(K, D)``."""
        ...

    def grams(self, samples: int, seed: int) -> Mapping[str, tuple[Tensor, bool]]:
        """For each linear layer (by the name of its weight) the experts' mean ``x x^T``.

        The shape is ``(K, inputs, inputs)``; beside it, whether the weight is stored as
        ``(inputs, outputs)``.
        """
        ...


@dataclass(frozen=True)
class MergeMethod(ABC):
    """Base class of all merge methods; the fields of a subclass are its parameters.

    Attributes:
        name: Its name in problem files.
        title: Its name in sentences.
        paper: Where it comes from.
        searchable: Parameters that can be searched, with the values they have by default.

    Example:
        >>> from moofusion.merging import make_method
        >>> ties = make_method({"method": "ties", "density": 0.2})
        >>> ties.at({"density": 0.5}).table["density"], sorted(ties.searchable)
        (0.5, ['density', 'scope'])
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    searchable: ClassVar[Mapping[str, Range]] = {}

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

    def at(self, parameters: Mapping[str, Any]) -> MergeMethod:
        """The method with other values of some parameters."""
        return replace(self, **parameters) if parameters else self

    @abstractmethod
    def bind(
        self,
        vectors: TaskVectors,
        partition: Partition,
        *,
        static: Array,
        statistics: Statistics | None = None,
    ) -> Merge:
        """The method on these task vectors.

        Args:
            vectors: Base and task vectors; not changed.
            partition: Groups of the flat buffer, one row of coefficients each.
            static: Coefficients of what no group covers, shape ``(K,)``.
            statistics: Source of what a method measures on training data.
        """


class TaskVectorTransform(MergeMethod):
    """Methods that rewrite the task vectors first; the merge stays linear in the coefficients.

    Example:
        >>> from moofusion.merging import make_method
        >>> from moofusion.testing import toy_pool
        >>> vectors = toy_pool().load().vectors
        >>> trimmed = make_method({"method": "ties", "density": 0.2})(vectors)
        >>> bool((trimmed.norms() < vectors.norms()).all())
        True
    """

    @abstractmethod
    def __call__(self, vectors: TaskVectors) -> TaskVectors:
        """The rewritten task vectors.

        The base is kept. The residue is kept where one-hot coefficients still give the experts,
        and is empty otherwise. Equal coefficients lambda give the merge that the paper of the
        method defines for the scale lambda.
        """

    def bind(
        self,
        vectors: TaskVectors,
        partition: Partition,
        *,
        static: Array,
        statistics: Statistics | None = None,
    ) -> LinearMerge:
        """The linear merge of the rewritten task vectors."""
        return LinearMerge(self(vectors), partition, static=static)

    @property
    def sentence(self) -> str:
        """How the weights come about, for model cards."""
        return (
            f"{super().sentence}: base + sum over experts of coefficient x task vector, where the "
            "task vectors (expert - base) were rewritten by the method"
        )


class TensorTransform(TaskVectorTransform):
    """Transforms that need no more than one tensor at a time.

    Example:
        >>> from moofusion.merging import TensorTransform
        >>> class Sign(TensorTransform):
        ...     name, title, paper = "sign", "sign of the task vectors", "nobody's"
        ...     def rewrite(self, deltas, *, name, experts):
        ...         return deltas.sign() * deltas.abs().mean()
        >>> from moofusion.testing import toy_problem
        >>> toy_problem(merge=Sign()).evaluate([[0.3, 0.3, 0.3]]).shape
        (1, 3)
    """

    @abstractmethod
    def rewrite(self, deltas: Tensor, *, name: str, experts: tuple[str, ...]) -> Tensor:
        """The rewritten differences of one tensor.

        Args:
            deltas: The experts' differences to the base, shape ``(K, *shape)``, in single
                precision; may be changed in place.
            name: Name of the tensor.
            experts: Names of the K experts.

        Returns:
            The new differences, of the same shape.
        """

    @property
    def changes_nothing(self) -> bool:
        """Whether these parameters leave the task vectors as they are."""
        return False

    @property
    def separate(self) -> bool:
        """Whether the rewritten task vector of an expert does not depend on the other experts."""
        return False

    def total(
        self,
        read: Callable[[int], Tensor],
        weights: Sequence[float],
        *,
        name: str,
        experts: tuple[str, ...],
    ) -> Tensor:
        """The sum over experts of weight times rewritten difference, for one tensor.

        It is what merges from disk to disk ask for. Methods that can do with fewer than all
        differences at a time override it; those that treat experts apart take one after the other.

        Args:
            read: Gives the difference of the k-th expert, in single precision, each time anew.
            weights: Weights of the K experts.
            name: Name of the tensor.
            experts: Names of the K experts.
        """
        if not self.separate:
            deltas = torch.stack([read(k) for k in range(len(experts))])
            deltas = self.rewrite(deltas, name=name, experts=experts)
            return sum_of(deltas.__getitem__, weights)
        return sum_of(
            lambda k: self.rewrite(read(k)[None], name=name, experts=(experts[k],))[0], weights
        )

    def __call__(self, vectors: TaskVectors) -> TaskVectors:
        """Rewrite tensor by tensor: memory is that of the new task vectors and one tensor."""
        if self.changes_nothing:
            return vectors
        deltas = torch.zeros_like(vectors.deltas)
        for entry in vectors.layout.entries:
            part = vectors.deltas[:, entry.slice].to(torch.float32, copy=True)
            part = part.view(-1, *entry.shape)
            new = self.rewrite(part, name=entry.name, experts=vectors.names)
            deltas[:, entry.slice] = new.reshape(len(deltas), -1).to(deltas.dtype)
        return replace(vectors, deltas=deltas, residue=no_residue(vectors))


class MatrixTransform(TensorTransform):
    """Base class of methods that rewrite matrices by their singular vectors; the rest is averaged.

    A subclass implements :meth:`rewrite_matrices` and :meth:`total_of_matrices`.
    """

    @abstractmethod
    def rewrite_matrices(self, deltas: Tensor) -> Tensor:
        """New differences of one matrix, shape ``(K, m, n)``; may change `deltas` in place."""

    @abstractmethod
    def total_of_matrices(self, read: Callable[[int], Tensor], weights: Sequence[float]) -> Tensor:
        """What :meth:`total` is of a matrix ``(m, n)``."""

    def rewrite(self, deltas: Tensor, *, name: str, experts: tuple[str, ...]) -> Tensor:
        """Rewrite one tensor: a matrix by the method, a K-th of each difference elsewhere."""
        return self.rewrite_matrices(deltas) if deltas.dim() == 3 else deltas.div_(len(deltas))

    def total(
        self,
        read: Callable[[int], Tensor],
        weights: Sequence[float],
        *,
        name: str,
        experts: tuple[str, ...],
    ) -> Tensor:
        """The weighted sum, with the differences of one expert at a time."""
        if read(0).dim() == 2:
            return self.total_of_matrices(read, weights)
        return sum_of(read, [weight / len(weights) for weight in weights])


def sum_of(read: Callable[[int], Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum of tensors that are made one after the other; those of weight 0 are not."""
    total: Tensor | None = None
    for k, weight in enumerate(weights):
        if weight:
            one = read(k)
            total = one * weight if total is None else total.add_(one, alpha=weight)
            del one  # before the next is made
    return torch.zeros_like(read(0)) if total is None else total


def no_residue(vectors: TaskVectors) -> tuple[tuple[Tensor, Tensor], ...]:
    """Residue of task vectors that no longer lead to the experts."""
    device = vectors.base.device
    empty = torch.empty(0, dtype=torch.int32, device=device), torch.empty(0, device=device)
    return (empty,) * vectors.n_experts


def require_statistics(method: MergeMethod, statistics: Statistics | None) -> Statistics:
    """The source of statistics.

    Raises:
        ConfigurationError: There is none.
    """
    if statistics is None:
        raise ConfigurationError(
            f"merge method {method.name!r} measures the experts on training data; use it in a "
            "MergeProblem, whose tasks have a train split"
        )
    return statistics


def shares(coefficients: Array, method: str) -> Array:
    """Coefficients ``(G, K)`` scaled to sum to one in each row; a row of zeros means equal shares.

    Raises:
        ConfigurationError: A coefficient is negative.
    """
    if (coefficients < 0).any():
        raise ConfigurationError(
            f"merge method {method!r} weighs experts against each other, so its coefficients must "
            f"be 0 or more; got {coefficients.min():.6g}. Set the lower bound of the space to 0"
        )
    total = coefficients.sum(axis=1, keepdims=True)
    equal = np.full_like(coefficients, 1 / coefficients.shape[1])
    return np.asarray(np.divide(coefficients, total, out=equal, where=total > 0))


def check_share(name: str, value: float, *, zero: bool = False) -> None:
    """Raise unless `value` is a share in (0, 1], or [0, 1] with `zero`."""
    if not (0 <= value <= 1) or (value == 0 and not zero):
        raise ConfigurationError(f"{name} must be in {'[' if zero else '('}0, 1], got {value}")


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise unless `value` is one of `known`."""
    if value not in known:
        raise ConfigurationError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def check_count(name: str, value: int, *, least: int) -> None:
    """Raise unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be a whole number from {least} up, got {value!r}")


def check_rank(value: float) -> None:
    """Raise unless `value` is a share in (0, 1], or a whole number from 2 up."""
    if not 0 < value <= 1 and not (isinstance(value, int) and value >= 2):
        raise ConfigurationError(
            f"rank must be a share in (0, 1], or a whole number of singular values from 2 up, got "
            f"{value!r}"
        )
