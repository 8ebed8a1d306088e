"""Iso-C: the sum of the task matrices with all singular values made equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moofusion.merging.methods.base import TensorTransform

__all__ = ["Iso"]


@dataclass(frozen=True)
class Iso(TensorTransform):
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

    def rewrite(self, deltas: Tensor, *, name: str, experts: tuple[str, ...]) -> Tensor:
        """Level the singular values of one tensor."""
        if deltas.dim() != 3:
            return deltas.div_(len(deltas))
        U, S, V = torch.linalg.svd(deltas.sum(0), full_matrices=False)
        real = S[0] * max(deltas.shape[1:]) * torch.finfo(S.dtype).eps < S
        energy = (deltas @ V.T).square().sum(1) + (U.T @ deltas).square().sum(2)
        shares = energy / energy.sum(0).clamp_(min=torch.finfo(S.dtype).tiny)
        level: Tensor = S.mean() * ((U * (shares * real)[:, None]) @ V)
        return level
