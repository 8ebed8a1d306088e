"""Model Breadcrumbs: mask the largest and the smallest entries of the task vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moofusion.errors import ConfigurationError
from moofusion.merging.methods.base import TensorTransform, check_share
from moofusion.merging.methods.sparse import disjoint_mean_

__all__ = ["Breadcrumbs"]


@dataclass(frozen=True)
class Breadcrumbs(TensorTransform):
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
        >>> delta = torch.tensor([[9.0, -4.0, 3.0, 0.1]])
        >>> Breadcrumbs(density=0.5, gamma=0.25).rewrite(delta, name="w", experts=("a",))
        tensor([[ 0., -4.,  3.,  0.]])
    """

    name: ClassVar[str] = "breadcrumbs"
    title: ClassVar[str] = "Model Breadcrumbs"
    paper: ClassVar[str] = "Davari & Belilovsky 2023, arXiv:2312.06795"
    bounds: ClassVar = {"density": (0.05, 0.95), "gamma": (0.0, 0.05)}

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

    @property
    def separate(self) -> bool:
        """Whether each expert is rewritten by itself."""
        return not self.elect

    def rewrite(self, deltas: Tensor, *, name: str, experts: tuple[str, ...]) -> Tensor:
        """Mask both tails of one tensor."""
        for row in deltas:
            n = row.numel()
            largest, stays = int(self.gamma * n), int(self.density * n)
            order = row.abs().flatten().argsort(stable=True)
            masked = torch.cat([order[: n - largest - stays], order[n - largest :]])
            row.view(-1)[masked] = 0
        if self.elect:
            disjoint_mean_(deltas)
        return deltas
