"""DARE: drop entries of the task vectors at random, rescale the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from moofusion.merging.methods.base import check_count, check_share
from moofusion.merging.methods.ranges import Choice, Integer, Real
from moofusion.merging.methods.sparse import DroppingTransform, Reading, drop_at_random

__all__ = ["Dare"]


@dataclass(frozen=True)
class Dare(DroppingTransform):
    """Drop And REscale (Yu et al. 2023, arXiv:2311.03099, section 3.2).

    Each entry of a task vector stays with probability `density` (1 - p in the paper) and is
    divided by it, else it is 0: unbiased over seeds. With `elect`, TIES's election of signs and
    disjoint mean follow (``dare_ties`` of mergekit, normalized).

    Which entries stay depends on the seed and the names of expert and tensor alone, so the model
    that was measured is the one that is exported. Biases, norms and embeddings are treated like
    every other tensor. With density 1 and no election one-hot coefficients give the expert bit for
    bit.

    Args:
        density: Probability with which an entry stays, in (0, 1].
        seed: Seed of the masks.
        elect: Elect signs and average what agrees, instead of adding up.

    Example:
        >>> import torch
        >>> kept = Dare(density=0.25).rewrite(torch.ones(1, 8), name="w", experts=("a",))
        >>> sorted(set(kept.flatten().tolist()))
        [0.0, 4.0]
    """

    name: ClassVar[str] = "dare"
    title: ClassVar[str] = "DARE"
    paper: ClassVar[str] = "Yu et al. 2023, arXiv:2311.03099"
    searchable: ClassVar = {
        "density": Real(0.05, 1.0),
        "seed": Integer(0, 9),
        "elect": Choice((False, True)),
    }

    density: float = 0.5
    seed: int = 0
    elect: bool = False

    def __post_init__(self) -> None:
        check_share("density", self.density)
        check_count("seed", self.seed, least=0)

    @property
    def changes_nothing(self) -> bool:
        """Whether everything stays."""
        return self.density == 1 and not self.elect

    def drop(
        self, read: Reading, *, size: int, name: str, experts: tuple[str, ...]
    ) -> Iterator[Tensor]:
        """Drop and rescale one tensor."""
        return drop_at_random(
            read, lambda row: self.density, seed=self.seed, name=name, experts=experts
        )
