"""Task arithmetic and the weighted average: the methods that rewrite nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moofusion.merging.linear import LinearMerge
from moofusion.merging.methods.base import MergeMethod, Statistics, TaskVectorTransform, shares
from moofusion.weights.layout import Partition
from moofusion.weights.vectors import TaskVectors

__all__ = ["Average", "Linear"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Linear(TaskVectorTransform):
    """Task arithmetic: ``theta_0 + sum_k L[g, k] tau_k[g]``, nothing rewritten.

    Ilharco et al. 2023, Editing models with task arithmetic (arXiv:2212.04089). Biases, norms and
    embeddings are merged like every other tensor. One-hot coefficients give that expert bit for
    bit.

    Example:
        >>> from moofusion.merging import make_method
        >>> make_method("linear")
        Linear()
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


@dataclass(frozen=True)
class Average(MergeMethod):
    """Weighted average of the experts: in each group the coefficients are scaled to sum to one.

    Wortsman et al. 2022, Model soups (arXiv:2203.05482). The base takes no part. Biases, norms and
    embeddings are averaged like every other tensor. One-hot coefficients (times any factor) give
    that expert bit for bit; a row of zeros is the plain average. Coefficients must not be negative.

    Example:
        >>> import torch
        >>> from moofusion.weights import ParameterLayout
        >>> layout = ParameterLayout({"w": (2,)})
        >>> base, a, b = (torch.full((layout.size,), v) for v in (0.0, 1.0, 3.0))
        >>> vectors = TaskVectors.build(layout, ["a", "b"], base, [a, b])
        >>> merge = Average().bind(vectors, layout.partition("model"), static=np.ones(2))
        >>> merge(np.array([[5.0, 5.0]]), out=torch.empty(layout.size))[:2]
        tensor([2., 2.])
    """

    name: ClassVar[str] = "average"
    title: ClassVar[str] = "weighted average"
    paper: ClassVar[str] = "Wortsman et al. 2022, arXiv:2203.05482"

    def bind(
        self,
        vectors: TaskVectors,
        partition: Partition,
        *,
        static: Array,
        statistics: Statistics | None = None,
    ) -> LinearMerge:
        """The average of these experts."""
        return _AverageMerge(vectors, partition, static=shares(static[None], self.name)[0])


class _AverageMerge(LinearMerge):
    def __call__(self, coefficients: Array, *, out: Tensor) -> Tensor:
        return super().__call__(shares(coefficients, Average.name), out=out)

    def gradient(
        self,
        flat_gradient: Tensor,
        coefficients: Array | None = None,
        *,
        groups: Partition | None = None,
    ) -> Array:
        """Chain rule through ``L / sum(L)``; zero where a row is, since all shares are fixed."""
        assert coefficients is not None
        inner = super().gradient(flat_gradient, groups=groups)
        total = coefficients.sum(axis=1, keepdims=True)
        mean = (inner * shares(coefficients, Average.name)).sum(axis=1, keepdims=True)
        return np.asarray(np.divide(inner - mean, total, out=np.zeros_like(inner), where=total > 0))
