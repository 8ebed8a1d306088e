"""TIES: trim the task vectors, elect a sign, average what agrees with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from moofusion.merging.methods.base import (
    TaskVectorTransform,
    check_choice,
    check_share,
    no_residue,
)
from moofusion.weights.vectors import TaskVectors

__all__ = ["Ties"]

SCOPES = ("model", "tensor")
# Signs and counts are taken in pieces of this many columns, so that memory stays at K pieces.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Ties(TaskVectorTransform):
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
        >>> Ties(density=2 / 3)(vectors).deltas[:, :3]
        tensor([[2., 3., 0.],
                [1., 0., 0.]])
    """

    name: ClassVar[str] = "ties"
    title: ClassVar[str] = "TIES"
    paper: ClassVar[str] = "Yadav et al. 2023, arXiv:2306.01708"

    density: float = 0.2
    scope: str = "model"

    def __post_init__(self) -> None:
        check_share("density", self.density)
        check_choice("scope", self.scope, SCOPES)

    def __call__(self, vectors: TaskVectors) -> TaskVectors:
        """Trim, elect, average; memory is that of the new task vectors and one more of them."""
        deltas = vectors.deltas.clone()
        for row in deltas:
            for part, size in _parts(vectors, self.scope):
                trim_(row[part], keep=round(self.density * size))
        elected = torch.empty(deltas.shape[1], dtype=torch.int8, device=deltas.device)
        for piece in _pieces(deltas):
            elected[piece] = deltas[:, piece].sum(0, dtype=torch.float64).sign().to(torch.int8)
        majority = 1 if int(elected.sum(dtype=torch.int64)) >= 0 else -1
        elected[elected == 0] = majority
        for piece in _pieces(deltas):
            values = deltas[:, piece]
            agrees = values.sign() == elected[piece]
            values.masked_fill_(~agrees, 0).div_(agrees.sum(0).clamp_(min=1))
        return replace(vectors, deltas=deltas, residue=no_residue(vectors))


def trim_(row: Tensor, *, keep: int) -> None:
    """Set all but the `keep` entries of largest magnitude to 0, in place.

    Entries as large as the smallest that is kept stay too.
    """
    if keep < row.numel():
        sizes = row.abs().float()
        if keep == 0:
            row.zero_()
        else:
            row[sizes < torch.kthvalue(sizes, row.numel() - keep + 1).values] = 0


def _parts(vectors: TaskVectors, scope: str) -> list[tuple[slice, int]]:
    """Places within which a share is taken, with their number of parameters."""
    layout = vectors.layout
    if scope == "tensor":
        return [(entry.slice, entry.size) for entry in layout.entries]
    # Padding is 0, so it is never among the largest.
    return [(slice(None), layout.n_parameters)]


def _pieces(deltas: Tensor) -> Iterator[slice]:
    for start in range(0, deltas.shape[1], _PIECE):
        yield slice(start, start + _PIECE)
