"""RegMean: linear layers that agree best with the experts' outputs on their own inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moofusion.merging.linear import LinearMerge, restore_experts
from moofusion.merging.methods.base import (
    Merge,
    MergeMethod,
    Statistics,
    check_count,
    check_share,
    require_statistics,
    shares,
)
from moofusion.merging.methods.ranges import Real
from moofusion.weights.layout import Partition
from moofusion.weights.vectors import TaskVectors

__all__ = ["RegMean"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RegMean(MergeMethod):
    """RegMean (Jin et al. 2022, arXiv:2212.09849, equation 2).

    The weights W (inputs x outputs) of every linear layer minimize
    ``sum_k w_k |X_k W - X_k W_k|^2`` with ``w = L / sum(L)`` and the inputs X_k that expert k sees
    there on the train split of the tasks that use its head:
    ``W = (sum_k w_k G_k)^-1 sum_k w_k G_k W_k`` for ``G_k = X_k^T X_k / n``, off the diagonal
    multiplied by `alpha`.

    Everything else (biases, norms, embeddings, convolutions) is averaged with the weights w. Not
    linear in the coefficients and without gradient. One-hot coefficients give that expert bit for
    bit; a row of zeros means equal weights.

    Args:
        samples: Training samples for each expert.
        alpha: Factor of the off-diagonal products, in [0, 1]; 0.9 in the paper.
        seed: Seed of the choice of samples.

    Example:
        >>> from moofusion.merging import make_method
        >>> make_method("regmean")
        RegMean(samples=256, alpha=0.9, seed=0)
    """

    name: ClassVar[str] = "regmean"
    title: ClassVar[str] = "RegMean"
    paper: ClassVar[str] = "Jin et al. 2022, arXiv:2212.09849"
    searchable: ClassVar = {"alpha": Real(0.0, 0.99)}

    samples: int = 256
    alpha: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("samples", self.samples, least=1)
        check_share("alpha", self.alpha, zero=True)
        check_count("seed", self.seed, least=0)

    def bind(
        self,
        vectors: TaskVectors,
        partition: Partition,
        *,
        static: Array,
        statistics: Statistics | None = None,
    ) -> Merge:
        """The regression mean of these experts."""
        grams = require_statistics(self, statistics).grams(self.samples, self.seed)
        damped = {
            name: (_damp(gram, self.alpha), transposed)
            for name, (gram, transposed) in grams.items()
        }
        return _RegMeanMerge(vectors, partition, static, damped)


class _RegMeanMerge:
    def __init__(
        self,
        vectors: TaskVectors,
        partition: Partition,
        static: Array,
        grams: Mapping[str, tuple[Tensor, bool]],
    ) -> None:
        self.vectors, self.partition, self.grams = vectors, partition, grams
        self.static = shares(static[None], RegMean.name)
        self._average = LinearMerge(vectors, partition, static=self.static[0])

    def __call__(self, coefficients: Array, *, out: Tensor) -> Tensor:
        own = shares(coefficients, RegMean.name)
        weights = np.vstack([own, self.static])
        self._average(own, out=out)
        entries = zip(self.vectors.layout.entries, self.partition.groups, strict=True)
        for entry, group in entries:
            row = weights[group]
            if entry.name not in self.grams or np.count_nonzero(row) == 1:
                continue
            grams, transposed = self.grams[entry.name]
            w = torch.as_tensor(row, device=grams.device)[:, None, None]
            deltas = self.vectors.deltas[:, entry.slice].double().view(-1, *entry.shape)
            columns = deltas if transposed else deltas.mT
            # The base is common to all, so the differences to it obey the same equation.
            solved = torch.linalg.solve((w * grams).sum(0), (w * (grams @ columns)).sum(0))
            merged = solved if transposed else solved.T
            base = self.vectors.base[entry.slice]
            out[entry.slice] = (base + merged.reshape(-1)).to(out.dtype)
        restore_experts(self.vectors, self.partition, weights, out)
        return out


def _damp(grams: Tensor, alpha: float) -> Tensor:
    """Shrink what is off the diagonal, in double precision.

    Inputs that an expert never sees have a diagonal of 0; a trace of ridge keeps that solvable.
    """
    grams = grams.double()
    diagonal = grams.diagonal(dim1=-2, dim2=-1)
    ridge = 1e-8 * diagonal.mean(-1, keepdim=True) + torch.finfo(grams.dtype).tiny
    return alpha * grams + torch.diag_embed((1 - alpha) * diagonal + ridge)
