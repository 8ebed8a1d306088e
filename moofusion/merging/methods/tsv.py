"""TSV-M: task singular vectors, made orthogonal across experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moofusion.merging.methods.base import MatrixTransform, check_rank
from moofusion.merging.methods.ranges import ShareOrCount
from moofusion.merging.methods.sparse import count_of

__all__ = ["Tsv"]


@dataclass(frozen=True)
class Tsv(MatrixTransform):
    """TSV-Merge (Gargiulo et al. 2024, Task Singular Vectors, arXiv:2412.00081, section 4.2).

    For every matrix with p = min(rows, columns):

    1. ``tau_k = U_k S_k V_k^T``; each expert keeps its first r = p / K singular triples.
    2. ``U = [U_1 .. U_K]`` and ``V`` likewise are replaced by the nearest matrices with orthonormal
       columns, ``U_perp = P Q^T`` for ``U = P D Q^T``, so that experts no longer interfere.
    3. The merge is ``theta_0 + lambda U_perp S V_perp^T``, which is a sum over the experts' own
       columns: ``tau'_k = U_perp,k S_k V_perp,k^T``.

    Embeddings that are matrices are treated so too; tensors of any other number of dimensions
    (biases, norms, convolutions) are averaged, ``tau'_k = tau_k / K``, as in the authors' code.
    One-hot coefficients do not give the expert back.

    Args:
        rank: Share of the singular values that each expert keeps, in (0, 1], or their number, a
            whole number from 2 up; by default 1 / K.

    Example:
        >>> deltas = torch.eye(2)[:, :, None] * torch.eye(2)[:, None, :]  # orthogonal already
        >>> Tsv().rewrite(deltas, name="w", experts=("a", "b")).abs().round(decimals=4)
        tensor([[[1., 0.],
                 [0., 0.]],
                [[0., 0.],
                 [0., 1.]]])
    """

    name: ClassVar[str] = "tsv"
    title: ClassVar[str] = "TSV-M"
    paper: ClassVar[str] = "Gargiulo et al. 2024, arXiv:2412.00081"
    searchable: ClassVar = {"rank": ShareOrCount(0.02, 1.0)}

    rank: float | int | None = None

    def __post_init__(self) -> None:
        if self.rank is not None:
            check_rank(self.rank)

    def rewrite_matrices(self, deltas: Tensor) -> Tensor:
        """Decompose, cut and make orthogonal one tensor."""
        K = len(deltas)
        left, S, right = self._orthogonal(deltas.__getitem__, K)
        r = S.shape[1]
        parts = [slice(k * r, (k + 1) * r) for k in range(K)]
        return torch.stack(
            [left[:, part] * s @ right[part] for part, s in zip(parts, S, strict=True)]
        )

    def total_of_matrices(self, read: Callable[[int], Tensor], weights: Sequence[float]) -> Tensor:
        """The weighted sum, with the differences of one expert at a time."""
        left, S, right = self._orthogonal(read, len(weights))
        scaled = S * torch.as_tensor(weights, dtype=S.dtype, device=S.device)[:, None]
        return left.mul_(scaled.flatten()) @ right

    def _orthogonal(self, read: Callable[[int], Tensor], K: int) -> tuple[Tensor, Tensor, Tensor]:
        """Orthonormal columns ``(m, K r)``, singular values ``(K, r)``, rows ``(K r, n)``."""
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for k in range(K):
            U, S, V = torch.linalg.svd(read(k), full_matrices=False)
            r = count_of(self.rank or 1 / K, len(S))
            kept.append((U[:, :r].clone(), S[:r], V[:r].clone()))
            del U, V  # before the next is decomposed
        left = torch.cat([U for U, _, _ in kept], dim=1)
        right = torch.cat([V for _, _, V in kept], dim=0)
        values = torch.stack([S for _, S, _ in kept])
        del kept
        return _orthonormal(left), values, _orthonormal(right)


def _orthonormal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns (orthogonal Procrustes)."""
    P, _, Q = torch.linalg.svd(matrix, full_matrices=False)
    result: Tensor = P @ Q
    return result
