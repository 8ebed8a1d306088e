"""Model Stock: how far to go from the base to the average, read off the angle between experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moofusion.merging.methods.base import TensorTransform

__all__ = ["ModelStock"]


@dataclass(frozen=True)
class ModelStock(TensorTransform):
    """Model Stock (Jang et al. 2024, arXiv:2403.19522, equations 1 to 3).

    For every tensor, with the mean cosine c of the angles between the K task vectors, the merge is
    ``theta_0 + t * mean_k tau_k`` with ``t = K c / (1 + (K - 1) c)``: the closer the experts are to
    each other, the further it goes. Equal coefficients of 1 give the paper's merge, 0.5 goes half
    the way, others weigh the experts; the merge is linear in them, since t depends on the task
    vectors alone: ``tau'_k = t tau_k / K``.

    The paper's derivation has experts of one task, whose cosines are positive; negative means are
    taken as 0, so t stays in [0, 1]. Biases, norms and embeddings have a t of their own like every
    other tensor. One-hot coefficients do not give the expert back.

    Example:
        >>> import torch
        >>> deltas = torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # the cosine is 0.6, so t is 0.75
        >>> ModelStock().rewrite(deltas, name="w", experts=("a", "b")).sum(0)
        tensor([0.6000, 0.3000])
    """

    name: ClassVar[str] = "model-stock"
    title: ClassVar[str] = "Model Stock"
    paper: ClassVar[str] = "Jang et al. 2024, arXiv:2403.19522"

    def rewrite(self, deltas: Tensor, *, name: str, experts: tuple[str, ...]) -> Tensor:
        """Scale the differences of one tensor."""
        rows = deltas.reshape(len(deltas), -1).double()
        return deltas.mul_(step_of((rows @ rows.T).cpu().numpy()))


def step_of(gram: NDArray[np.float64]) -> float:
    """The factor ``t / K`` of task vectors with these products ``(K, K)``."""
    K = len(gram)
    if K == 1:
        return 1.0
    norms = np.sqrt(np.diag(gram))
    scale = np.outer(norms, norms)
    cosines = np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0)
    cosine = float((cosines.sum() - np.trace(cosines)) / (K * (K - 1)))
    cosine = min(max(cosine, 0.0), 1.0)
    return cosine / (1 + (K - 1) * cosine)
