"""What sparsifying methods share: order statistics, seeded masks, the mean of elected signs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import xxhash
from torch import Tensor

from moofusion.merging.methods.base import TensorTransform

__all__ = [
    "DroppingTransform",
    "count",
    "count_of",
    "disjoint_mean_",
    "drop_at_random",
    "elected_signs",
    "keep_largest_",
    "magnitudes_at",
    "seeded",
]

# A magnitude in single precision has 31 bits: 15 pick a bin, 16 the value within it.
_HIGH, _LOW = 1 << 15, 1 << 16
# Fewer entries than this are sorted sooner than counted.
_FEW = 1 << 14

#: Starts a reading of differences: pieces ``(K, rows, ...)``, whole rows one after the other.
Reading = Callable[[], Iterable[Tensor]]


class DroppingTransform(TensorTransform):
    """Transforms that drop entries of each expert by itself, and then may elect signs.

    They take a tensor in pieces of whole rows, so that one of any size costs no more memory.

    Attributes:
        elect: Elect signs and average what agrees, instead of adding up.
    """

    elect: bool

    @abstractmethod
    def drop(
        self, read: Reading, *, size: int, name: str, experts: tuple[str, ...]
    ) -> Iterator[Tensor]:
        """The differences of one tensor with entries dropped, piece by piece, in place.

        Args:
            read: Starts a reading of the differences, in single precision.
            size: How many entries the tensor has.
            name: Name of the tensor.
            experts: Names of the K experts.
        """

    @property
    def separate(self) -> bool:
        """Whether each expert is rewritten by itself."""
        return not self.elect

    def rewrite(self, deltas: Tensor, *, name: str, experts: tuple[str, ...]) -> Tensor:
        """Drop, and elect where that is wanted, within one tensor."""
        size = deltas[0].numel()
        for _ in self.drop(lambda: [deltas], size=size, name=name, experts=experts):
            pass
        if self.elect:
            disjoint_mean_(deltas)
        return deltas

    def rewrite_pieces(
        self, read: Reading, *, size: int, name: str, experts: tuple[str, ...]
    ) -> Iterator[Tensor]:
        """The same, piece by piece; with an election everything is read once more."""
        pieces = self.drop(read, size=size, name=name, experts=experts)
        if not self.elect:
            yield from pieces
            return
        balance = sum(int(elected_signs(piece).sum(dtype=torch.int64)) for piece in pieces)
        for piece in self.drop(read, size=size, name=name, experts=experts):
            disjoint_mean_(piece, majority=1 if balance >= 0 else -1)
            yield piece


def count(share: float, size: int) -> int:
    """How many of `size` entries a share is: rounded down, at least one."""
    return max(1, int(share * size))


def count_of(rank: float, size: int) -> int:
    """How many of `size` singular values a rank is: a share up to 1, a number above it."""
    return min(int(rank), size) if rank > 1 else count(rank, size)


def keep_largest_(row: Tensor, keep: int) -> None:
    """Set all but the `keep` entries of largest magnitude to 0, in place.

    Entries as large as the smallest that is kept stay too.
    """
    if keep < row.numel():
        sizes = row.abs().float()
        row[sizes < torch.kthvalue(sizes.flatten(), row.numel() - keep + 1).values] = 0


def magnitudes_at(
    read: Reading, ranks: Sequence[int], *, experts: int, size: int
) -> list[list[tuple[float, int]]]:
    """Magnitudes of these ranks (0 the smallest) of each expert, exact, in two readings.

    The upper bits come from a histogram over all entries, the rest from one over the entries that
    share those bits; few entries are sorted.

    Args:
        read: Starts a reading of the differences.
        ranks: The ranks, each below the number of entries.
        experts: How many experts there are.
        size: How many entries each of them has.

    Returns:
        For each expert and rank the magnitude, and how many equal ones have lower ranks.

    Example:
        >>> magnitudes_at(lambda: [torch.tensor([[3.0, -1.0, 2.0, -2.0]])], [0, 2],
        ...               experts=1, size=4)
        [[(1.0, 0), (2.0, 1)]]
    """
    if not ranks:
        return [[] for _ in range(experts)]
    if size < _FEW:
        rows = torch.cat([_bits(piece) for piece in read()], dim=1).cpu().sort(dim=1).values
        below = [[int(torch.searchsorted(row, row[rank])) for rank in ranks] for row in rows]
        values = rows.view(torch.float32)[:, list(ranks)].tolist()
        return [
            [(value, rank - low) for value, rank, low in zip(own, ranks, lows, strict=True)]
            for own, lows in zip(values, below, strict=True)
        ]
    upper = torch.zeros(experts, _HIGH, dtype=torch.int64)
    for piece in read():
        for row, bits in zip(upper, _bits(piece), strict=True):
            row += torch.bincount(bits >> 16, minlength=_HIGH).cpu()
    found = [[_bin_of(row, rank) for rank in ranks] for row in upper]
    lower = torch.zeros(experts, len(ranks), _LOW, dtype=torch.int64)
    for piece in read():
        for rows, bits, bins in zip(lower, _bits(piece), found, strict=True):
            for row, (top, _) in zip(rows, bins, strict=True):
                inside = bits[bits >> 16 == top] & (_LOW - 1)
                row += torch.bincount(inside, minlength=_LOW).cpu()
    result = []
    for rows, bins in zip(lower, found, strict=True):
        own = []
        for row, (top, rest) in zip(rows, bins, strict=True):
            low, equal = _bin_of(row, rest)
            value = torch.tensor((top << 16) + low, dtype=torch.int32).view(torch.float32)
            own.append((float(value), equal))
        result.append(own)
    return result


def _bits(piece: Tensor) -> Tensor:
    """Magnitudes as integers of the same order, shape ``(K, n)``."""
    return piece.abs().float().view(torch.int32).reshape(len(piece), -1)


def _bin_of(histogram: Tensor, rank: int) -> tuple[int, int]:
    """Bin of the entry of that rank, and its rank within the bin."""
    below = histogram.cumsum(0)
    at = int(torch.searchsorted(below, rank, right=True))
    return at, rank - (int(below[at - 1]) if at else 0)


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
    if len(deltas) == 2:  # rounding never changes the sign of a sum of two
        return deltas.sum(0).sign().to(torch.int8)
    total = deltas[0].double()
    for delta in deltas[1:]:
        total += delta
    return total.sign_().to(torch.int8)


def seeded(*key: object) -> torch.Generator:
    """A generator that depends on the key alone: not on the order of experts, nor the device."""
    seed = xxhash.xxh3_64_intdigest("/".join(map(str, key)).encode()) >> 1
    return torch.Generator().manual_seed(seed)


def drop_at_random(
    read: Reading,
    chance: Callable[[Tensor], Tensor | float],
    *,
    seed: int,
    name: str,
    experts: tuple[str, ...],
) -> Iterator[Tensor]:
    """Pieces whose entries stay with their `chance`, by which they are divided; the rest are 0.

    Args:
        read: Starts a reading of the differences.
        chance: Probability of each entry of one expert's piece, or one for all.
        seed: Of what is drawn, together with `name` and the expert.
        name: Name of the tensor.
        experts: Names of the experts.
    """
    generators = [seeded(seed, expert, name) for expert in experts]
    for piece in read():
        for row, generator in zip(piece, generators, strict=True):
            stays = chance(row)
            goes = torch.rand(row.shape, generator=generator).to(row.device) >= stays
            row.masked_fill_(goes, 0).div_(stays)
        yield piece
