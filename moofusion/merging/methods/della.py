"""DELLA: drop small entries of the task vectors more often than large ones, elect signs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moofusion.errors import ConfigurationError
from moofusion.merging.methods.base import check_count, check_share
from moofusion.merging.methods.ranges import Choice, Integer, Real
from moofusion.merging.methods.sparse import DroppingTransform, Reading, drop_at_random

__all__ = ["Della"]


@dataclass(frozen=True)
class Della(DroppingTransform):
    """DELLA-Merging (Deep et al. 2024, arXiv:2406.11617, section 3).

    1. *Drop* (MAGPRUNE): within each row of a matrix the n entries are ranked by magnitude; the
       entry of rank r (0 the smallest) stays with the probability
       ``q = density + epsilon ((r + 1/2) / n - 1/2)`` and is divided by q. The half makes the mean
       of q over a row exactly `density`; the paper's ranks are off by ``epsilon / (2 n)``.
    2. *Elect* and *fuse*: as TIES does, unless `elect` is off.

    Tensors of one dimension (biases, norms) are one row; of tensors with more than two the first
    dimension counts the rows. Embeddings are treated like every other matrix. Without election the
    method is unbiased over seeds.

    Args:
        density: Mean probability with which an entry stays (1 - p in the paper).
        epsilon: Range of the probabilities; ``density +- epsilon / 2`` must lie in [0, 1].
        seed: Seed of the masks.
        elect: Elect signs and average what agrees, instead of adding up.

    Example:
        >>> import torch
        >>> method = Della(density=0.5, epsilon=1.0, elect=False)
        >>> method.probabilities(torch.tensor([[0.1, -3.0, 1.0, 2.0]]))
        tensor([[0.1250, 0.8750, 0.3750, 0.6250]])
    """

    name: ClassVar[str] = "della"
    title: ClassVar[str] = "DELLA"
    paper: ClassVar[str] = "Deep et al. 2024, arXiv:2406.11617"
    searchable: ClassVar = {
        "density": Real(0.1, 0.9),
        "epsilon": Real(0.0, 0.2),
        "seed": Integer(0, 9),
        "elect": Choice((False, True)),
    }

    density: float = 0.5
    epsilon: float = 0.2
    seed: int = 0
    elect: bool = True

    def __post_init__(self) -> None:
        check_share("density", self.density)
        check_share("epsilon", self.epsilon, zero=True)
        check_count("seed", self.seed, least=0)
        if self.density < self.epsilon / 2 or self.density > 1 - self.epsilon / 2:
            raise ConfigurationError(
                f"density +- epsilon / 2 must lie in [0, 1], got {self.density} +- "
                f"{self.epsilon / 2:g}"
            )

    def probabilities(self, delta: Tensor) -> Tensor:
        """Probability with which each entry of a tensor stays."""
        rows = delta.reshape(1, -1) if delta.dim() < 2 else delta.flatten(1)
        n = rows.shape[1]
        order = rows.abs().argsort(dim=1, stable=True)
        steps = (torch.arange(n, device=rows.device) + 0.5) / n - 0.5
        chances = (self.density + self.epsilon * steps).expand_as(order)
        return torch.empty_like(rows).scatter_(1, order, chances).view(delta.shape)

    def drop(
        self, read: Reading, *, size: int, name: str, experts: tuple[str, ...]
    ) -> Iterator[Tensor]:
        """Drop and rescale one tensor."""
        return drop_at_random(read, self.probabilities, seed=self.seed, name=name, experts=experts)
