"""Low-rank truncation: the leading singular vectors of each task matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moofusion.merging.methods.base import TensorTransform, check_rank
from moofusion.merging.methods.ranges import ShareOrCount
from moofusion.merging.methods.sparse import count_of

__all__ = ["LowRank"]


@dataclass(frozen=True)
class LowRank(TensorTransform):
    """Task matrices truncated to their leading singular vectors (TSV-Compress).

    Gargiulo et al. 2024, Task Singular Vectors (arXiv:2412.00081, section 4.1); also the
    compression of Twin-Merging (Lu et al. 2024, arXiv:2406.15479). Every matrix, embeddings
    included, becomes its best approximation of that rank (Eckart-Young); tensors of any other
    number of dimensions (biases, norms, convolutions) stay as they are. With rank 1.0 nothing
    changes and one-hot coefficients give the expert bit for bit.

    Args:
        rank: Share of the singular values that stays, in (0, 1], at least one; or their number, a
            whole number from 2 up, at most all.

    Example:
        >>> delta = torch.diag(torch.tensor([3.0, 1.0]))[None]
        >>> LowRank(rank=0.5).rewrite(delta, name="w", experts=("a",)).abs()
        tensor([[[3., 0.],
                 [0., 0.]]])
    """

    name: ClassVar[str] = "low-rank"
    title: ClassVar[str] = "low-rank task arithmetic"
    paper: ClassVar[str] = "Gargiulo et al. 2024, arXiv:2412.00081"
    searchable: ClassVar = {"rank": ShareOrCount(0.02, 1.0)}

    rank: float | int = 0.25

    def __post_init__(self) -> None:
        check_rank(self.rank)

    @property
    def changes_nothing(self) -> bool:
        """Whether every singular value stays."""
        return self.rank == 1

    @property
    def separate(self) -> bool:
        """Whether each expert is rewritten by itself."""
        return True

    def rewrite(self, deltas: Tensor, *, name: str, experts: tuple[str, ...]) -> Tensor:
        """Truncate one tensor."""
        if deltas.dim() != 3:
            return deltas
        U, S, V = torch.linalg.svd(deltas, full_matrices=False)
        r = count_of(self.rank, S.shape[1])
        truncated: Tensor = U[:, :, :r] * S[:, None, :r] @ V[:, :r]
        return truncated
