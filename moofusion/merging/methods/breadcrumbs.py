"""Model Breadcrumbs: mask the largest and the smallest entries of the task vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from moofusion.errors import ConfigurationError
from moofusion.merging.methods.base import check_share
from moofusion.merging.methods.ranges import Choice, Real
from moofusion.merging.methods.sparse import DroppingTransform, Reading, magnitudes_at

__all__ = ["Breadcrumbs"]


@dataclass(frozen=True)
class Breadcrumbs(DroppingTransform):
    """Model Breadcrumbs (Davari & Belilovsky 2023, arXiv:2312.06795, section 3).

    Within each tensor the share `gamma` of largest magnitude (outliers) and the smallest entries
    are set to 0, so that the share `density` in between stays (the paper's beta is
    ``1 - density - gamma``). With `elect`, TIES's election of signs and disjoint mean follow.

    Biases, norms and embeddings are masked like every other tensor. With density 1 and gamma 0 and
    no election one-hot coefficients give the expert bit for bit.

    Args:
        density: Share of entries that stays, in (0, 1].
        gamma: Share of largest entries that goes; density + gamma must not exceed 1.
        elect: Elect signs and average what agrees, instead of adding up.

    Example:
        >>> import torch
        >>> delta = torch.tensor([[9.0, -4.0, 3.0, 0.1]])
        >>> Breadcrumbs(density=0.5, gamma=0.25).rewrite(delta, name="w", experts=("a",))
        tensor([[ 0., -4.,  3.,  0.]])
    """

    name: ClassVar[str] = "breadcrumbs"
    title: ClassVar[str] = "Model Breadcrumbs"
    paper: ClassVar[str] = "Davari & Belilovsky 2023, arXiv:2312.06795"
    searchable: ClassVar = {
        "density": Real(0.05, 0.95),
        "gamma": Real(0.0, 0.05),
        "elect": Choice((False, True)),
    }

    density: float = 0.1
    gamma: float = 0.01
    elect: bool = False

    def __post_init__(self) -> None:
        check_share("density", self.density)
        check_share("gamma", self.gamma, zero=True)
        if self.density + self.gamma > 1:
            raise ConfigurationError(
                f"density + gamma must not exceed 1, got {self.density} + {self.gamma}"
            )

    @property
    def changes_nothing(self) -> bool:
        """Whether everything stays."""
        return self.density == 1 and not self.elect

    def drop(
        self, read: Reading, *, size: int, name: str, experts: tuple[str, ...]
    ) -> Iterator[Tensor]:
        """Mask both tails of one tensor; of equal magnitudes the first count as the smaller."""
        above = size - int(self.gamma * size)  # from this rank on entries are too large
        below = above - int(self.density * size)  # up to this rank they are too small
        ranks = [rank for rank in (below - 1, above) if 0 <= rank < size]
        found = magnitudes_at(read, ranks, experts=len(experts), size=size)
        tails = []
        for own in found:
            low, under = own[0] if below else (-1.0, -1)
            high, over = own[-1] if above < size else (float("inf"), 0)
            tails.append(_Tails(low, under + 1, high, over))
        for piece in read():
            for row, tail in zip(piece, tails, strict=True):
                tail.mask_(row)
            yield piece


@dataclass
class _Tails:
    """What is masked of one expert, and what is left to do among equal magnitudes.

    Attributes:
        low: The largest magnitude that is too small.
        under: How many entries of that magnitude are still to be masked.
        high: The smallest magnitude that is too large.
        over: How many entries of that magnitude may still stay.
    """

    low: float
    under: int
    high: float
    over: int

    def mask_(self, row: Tensor) -> None:
        sizes = row.abs()
        goes = (sizes < self.low) | (sizes > self.high)
        flat = goes.view(-1)
        if self.under:
            equal = (sizes == self.low).flatten().nonzero().flatten()[: self.under]
            flat[equal] = True
            self.under -= len(equal)
        equal = (sizes == self.high).flatten().nonzero().flatten()
        flat[equal[self.over :]] = True
        self.over = max(self.over - len(equal), 0)
        row.masked_fill_(goes, 0)
