"""TIES: trim the task vectors, elect a sign, average what agrees with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from moofusion.merging.methods.base import (
    TensorTransform,
    check_choice,
    check_share,
    no_residue,
)
from moofusion.merging.methods.ranges import Choice, Real
from moofusion.merging.methods.sparse import count, disjoint_mean_, elected_signs, keep_largest_
from moofusion.weights.vectors import TaskVectors

__all__ = ["Ties"]

SCOPES = ("model", "tensor")
# Signs and counts are taken in pieces of this many columns, so that memory stays at K pieces.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Ties(TensorTransform):
    """TIES-Merging (Yadav et al. 2023, arXiv:2306.01708, algorithm 1).

    1. *Trim*: of each task vector the share `density` of largest magnitude stays, the rest is 0.
    2. *Elect*: at each position the sign of the sum of the trimmed values. Where they cancel
       exactly, the sign that most positions have (as the authors' code does).
    3. *Disjoint mean*: the mean of the trimmed values that have the elected sign.

    The mean is written as a sum over experts, ``tau'_k = mask_k tau_k / count``, where count is
    the number of agreeing experts at that position: equal coefficients lambda give the paper's
    ``theta_0 + lambda * mean``, other coefficients weigh the experts within it.

    Biases, norms and embeddings are trimmed like every other tensor. One-hot coefficients do not
    give the expert back.

    Args:
        density: Share of entries that stays, in (0, 1]; 0.2 in the paper.
        scope: Whether the share is taken over the whole ``"model"``, as in the paper, or within
            each ``"tensor"``, as mergekit does.

    Example:
        >>> from moofusion.weights import ParameterLayout
        >>> layout = ParameterLayout({"w": (3,)})
        >>> base, a, b = (torch.zeros(layout.size) for _ in range(3))
        >>> a[:3], b[:3] = torch.tensor([4.0, 3.0, 0.1]), torch.tensor([2.0, -1.0, 0.2])
        >>> vectors = TaskVectors.build(layout, ["a", "b"], base, [a, b])
        >>> Ties(density=0.67)(vectors).deltas[:, :3]
        tensor([[2., 3., 0.],
                [1., 0., 0.]])
    """

    name: ClassVar[str] = "ties"
    title: ClassVar[str] = "TIES"
    paper: ClassVar[str] = "Yadav et al. 2023, arXiv:2306.01708"
    searchable: ClassVar = {"density": Real(0.05, 1.0), "scope": Choice(SCOPES)}

    density: float = 0.2
    scope: str = "model"

    def __post_init__(self) -> None:
        check_share("density", self.density)
        check_choice("scope", self.scope, SCOPES)

    def rewrite(self, deltas: Tensor, *, name: str, experts: tuple[str, ...]) -> Tensor:
        """Trim, elect and average within one tensor."""
        for row in deltas:
            keep_largest_(row, count(self.density, row.numel()))
        disjoint_mean_(deltas)
        return deltas

    def __call__(self, vectors: TaskVectors) -> TaskVectors:
        """Trim, elect, average; memory is that of the new task vectors and one more of them."""
        if self.scope == "tensor":
            return super().__call__(vectors)
        deltas = vectors.deltas.clone()
        for row in deltas:
            # Padding is 0, so it is never among the largest.
            keep_largest_(row, count(self.density, vectors.layout.n_parameters))
        pieces = [deltas[:, a : a + _PIECE] for a in range(0, deltas.shape[1], _PIECE)]
        balance = sum(int(elected_signs(p).sum(dtype=torch.int64)) for p in pieces)
        for piece in pieces:
            disjoint_mean_(piece, majority=1 if balance >= 0 else -1)
        return replace(vectors, deltas=deltas, residue=no_residue(vectors))
