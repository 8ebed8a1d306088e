"""Fisher-weighted averaging: each entry from the experts to which it matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moofusion.merging.linear import restore_experts
from moofusion.merging.methods.base import (
    Merge,
    MergeMethod,
    Statistics,
    check_count,
    require_statistics,
    shares,
)
from moofusion.merging.methods.ranges import Real
from moofusion.weights.layout import Partition
from moofusion.weights.vectors import TaskVectors

__all__ = ["Fisher"]

Array = NDArray[np.float64]
_PIECE = 1 << 18


@dataclass(frozen=True)
class Fisher(MergeMethod):
    """Fisher-weighted averaging (Matena & Raffel 2021, arXiv:2111.09832, equation 4).

    For every entry ``theta = sum_k w_k F_k theta_k / sum_k w_k F_k`` with ``w = L / sum(L)`` and
    the diagonal Fisher information F_k of expert k on the train split of the tasks that use its
    head: the mean over samples of the squared gradient of the log-likelihood, of a label drawn
    from the expert's own prediction for classification, of the observed loss for other tasks. Each
    F_k is scaled to unit norm (the authors' ``normalize_fishers``) and `floor` is added, so that
    entries that matter to nobody are averaged.

    Not linear in the coefficients and without gradient. Biases, norms and embeddings are weighed
    entry by entry like all tensors. One-hot coefficients give that expert bit for bit; a row of
    zeros means equal weights.

    Args:
        samples: Training samples for each expert, one backward pass each.
        floor: Added to the scaled information of every entry.
        seed: Seed of the choice of samples and labels.

    Example:
        >>> from moofusion.merging import make_method
        >>> make_method({"method": "fisher", "samples": 100})
        Fisher(samples=100, floor=1e-06, seed=0)
    """

    name: ClassVar[str] = "fisher"
    title: ClassVar[str] = "Fisher-weighted averaging"
    paper: ClassVar[str] = "Matena & Raffel 2021, arXiv:2111.09832"
    searchable: ClassVar = {"floor": Real(1e-10, 1e-2, log=True)}

    samples: int = 256
    floor: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("samples", self.samples, least=1)
        check_count("seed", self.seed, least=0)
        if not self.floor > 0:
            raise ValueError(f"floor must be positive, got {self.floor}")

    def bind(
        self,
        vectors: TaskVectors,
        partition: Partition,
        *,
        static: Array,
        statistics: Statistics | None = None,
    ) -> Merge:
        """The weighted average of these experts."""
        information = require_statistics(self, statistics).fisher(self.samples, self.seed).clone()
        for row in information:
            row /= row.norm().clamp_(min=torch.finfo(row.dtype).tiny)
            row += self.floor
        return _FisherMerge(vectors, partition, static, information)


class _FisherMerge:
    def __init__(
        self, vectors: TaskVectors, partition: Partition, static: Array, information: Tensor
    ) -> None:
        self.vectors, self.partition = vectors, partition
        self.information = information
        self.static = shares(static[None], Fisher.name)

    def __call__(self, coefficients: Array, *, out: Tensor) -> Tensor:
        weights = np.vstack([shares(coefficients, Fisher.name), self.static])
        base, deltas = self.vectors.base, self.vectors.deltas
        rows = torch.as_tensor(weights, dtype=base.dtype, device=base.device)
        for start, stop, group in self.partition.segments:
            for a in range(start, stop, _PIECE):
                part = slice(a, min(a + _PIECE, stop))
                pull = rows[group][:, None] * self.information[:, part]
                # Divided first: one-hot weights are then exactly 1, and the expert exact.
                pull /= pull.sum(0)
                out[part] = base[part] + (pull * deltas[:, part]).sum(0)
        restore_experts(self.vectors, self.partition, weights, out)
        return out
