"""Iso-C: the sum of the task matrices with all singular values made equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moofusion.merging.methods.base import MatrixTransform, sum_of

__all__ = ["Iso"]


@dataclass(frozen=True)
class Iso(MatrixTransform):
    """Iso-C, isotropic merging in the common subspace (Marczak et al. 2025, arXiv:2502.04959).

    For every matrix ``sum_k tau_k = U S V^T``, and the merge is
    ``theta_0 + lambda mean(S) U V^T`` (section 4.1).

    Split among the experts, each takes of every singular pair (u, v) the share of the energy that
    it has along it: ``tau'_k = mean(S) U diag(c_k) V^T`` with ``c_k`` in proportion to
    ``|tau_k v|^2 + |tau_k^T u|^2``, shares that sum to one. Equal coefficients give the paper's
    merge, others turn experts down within it; no singular value ever exceeds ``mean(S)``. This
    split is ours: the paper weighs all experts alike. Directions in which the sum is numerically 0
    are left out, since singular vectors are arbitrary there.

    Embeddings that are matrices are treated so too; tensors of any other number of dimensions
    (biases, norms, convolutions) are averaged, ``tau'_k = tau_k / K``, as in the authors' code.
    One-hot coefficients do not give the expert back.

    Example:
        >>> deltas = torch.diag_embed(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> Iso().rewrite(deltas, name="w", experts=("a", "b")).sum(0).round(decimals=4)
        tensor([[2., 0.],
                [0., 2.]])
    """

    name: ClassVar[str] = "iso"
    title: ClassVar[str] = "Iso-C"
    paper: ClassVar[str] = "Marczak et al. 2025, arXiv:2502.04959"

    def rewrite_matrices(self, deltas: Tensor) -> Tensor:
        """Level the singular values of one tensor."""
        U, shares, V = _leveled(deltas.__getitem__, len(deltas))
        return (U * shares[:, None]) @ V

    def total_of_matrices(self, read: Callable[[int], Tensor], weights: Sequence[float]) -> Tensor:
        """The weighted sum, with the differences of one expert at a time."""
        U, shares, V = _leveled(read, len(weights))
        return U.mul_(torch.as_tensor(weights, dtype=U.dtype, device=U.device) @ shares) @ V


def _leveled(read: Callable[[int], Tensor], K: int) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors of the sum of K matrices, and each one's share ``(K, p)`` of ``mean(S)``."""
    U, S, V = torch.linalg.svd(sum_of(read, [1.0] * K), full_matrices=False)
    real = S[0] * max(len(U), V.shape[1]) * torch.finfo(S.dtype).eps < S
    energy = torch.stack([_energy(read(k), U, V) for k in range(K)])
    shares = energy / energy.sum(0).clamp_(min=torch.finfo(S.dtype).tiny)
    return U, S.mean() * shares * real, V


def _energy(delta: Tensor, U: Tensor, V: Tensor) -> Tensor:
    return (delta @ V.T).square_().sum(0) + (U.T @ delta).square_().sum(1)
