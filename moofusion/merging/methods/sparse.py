"""What sparsifying methods share: trimming, seeded masks, the disjoint mean of elected signs."""

from __future__ import annotations

import torch
import xxhash
from torch import Tensor

__all__ = ["count", "disjoint_mean_", "keep_largest_", "seeded", "uniform"]


def count(share: float, size: int) -> int:
    """How many of `size` entries a share is: rounded down, at least one."""
    return max(1, int(share * size))


def keep_largest_(row: Tensor, keep: int) -> None:
    """Set all but the `keep` entries of largest magnitude to 0, in place.

    Entries as large as the smallest that is kept stay too.
    """
    if keep < row.numel():
        sizes = row.abs().float()
        row[sizes < torch.kthvalue(sizes.flatten(), row.numel() - keep + 1).values] = 0


def disjoint_mean_(deltas: Tensor, *, majority: int | None = None) -> None:
    """Elect a sign at each position and share the mean of what has it among the experts, in place.

    ``delta_k`` becomes ``delta_k / count`` where its sign is that of the sum over experts (count is
    the number of such experts), and 0 elsewhere: summed over experts, the disjoint mean of TIES.

    Args:
        deltas: Differences ``(K, ...)``.
        majority: The sign where the sum is exactly 0; None for the sign that most positions have.
    """
    elected = elected_signs(deltas)
    if majority is None:
        majority = 1 if int(elected.sum(dtype=torch.int64)) >= 0 else -1
    elected[elected == 0] = majority
    agrees = deltas.sign() == elected
    deltas.masked_fill_(~agrees, 0).div_(agrees.sum(0).clamp_(min=1))


def elected_signs(deltas: Tensor) -> Tensor:
    """Sign of the sum over experts at each position: -1, 0 or 1."""
    return deltas.sum(0, dtype=torch.float64).sign().to(torch.int8)


def seeded(*key: object) -> torch.Generator:
    """A generator that depends on the key alone: not on the order of experts, nor the device."""
    seed = xxhash.xxh3_64_intdigest("/".join(map(str, key)).encode()) >> 1
    return torch.Generator().manual_seed(seed)


def uniform(shape: torch.Size, *key: object) -> Tensor:
    """Uniform numbers in [0, 1) from the generator of this key."""
    return torch.rand(shape, generator=seeded(*key))
