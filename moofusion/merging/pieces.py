"""Merges that read checkpoints in pieces: what a method needs of whole tensors is collected first.

Files are memory-mapped, so a piece costs its own size and no more; memory does not grow with the
size of a model, and hardly with the number of experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch

from moofusion.errors import PoolError
from moofusion.merging.methods.sparse import count, disjoint_mean_, elected_signs

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from moofusion.merging.methods import Ties
    from moofusion.weights.adapted import AdaptedCheckpoint
    from moofusion.weights.shards import Checkpoint

    Source = Checkpoint | AdaptedCheckpoint

__all__ = ["Trimming", "differences", "finite", "gram", "merge_added", "merge_trimmed", "trimming"]

# Entries in memory at a time, over all experts.
_ENTRIES = 1 << 22
# A magnitude in single precision has 31 bits: 15 pick a bin, 16 the value within it.
_HIGH, _LOW = 1 << 15, 1 << 16


def finite(model: Source, name: str, place: slice | None = None) -> Tensor:
    """A tensor in single precision, or entries of it as a vector.

    Args:
        model: Where it is.
        name: Its name.
        place: Which entries of the flattened tensor; None for the tensor in its shape.

    Raises:
        PoolError: It holds NaN or infinite values.
    """
    if place is None:
        whole = torch.empty(prod(model.shape(name)))
        for start in range(0, len(whole), _ENTRIES):
            part = slice(start, start + _ENTRIES)
            whole[part] = finite(model, name, part)
        return whole.view(model.shape(name))
    tensor = model.piece(name, place)
    if not bool(tensor.isfinite().all()):
        raise PoolError(
            f"{model.role}: tensor {name} holds NaN or infinite values; a merge would spread them, "
            "so fix or leave out this model"
        )
    return tensor


def _pieces(
    name: str, base: Source, experts: Mapping[str, Source]
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Place, base ``(n,)`` and differences ``(K, n)`` of one piece after the other."""
    size, step = prod(base.shape(name)), max(1, _ENTRIES // max(len(experts), 1))
    for start in range(0, size, step):
        place = slice(start, min(start + step, size))
        first = finite(base, name, place)
        deltas = torch.empty(len(experts), len(first))
        for delta, expert in zip(deltas, experts.values(), strict=True):
            torch.sub(finite(expert, name, place), first, out=delta)
        yield place, first, deltas


def differences(name: str, base: Source, experts: Mapping[str, Source]) -> Tensor:
    """The experts' differences of one tensor, shape ``(K, *shape)``."""
    shape = base.shape(name)
    result = torch.empty(len(experts), prod(shape))
    for place, _, deltas in _pieces(name, base, experts):
        result[:, place] = deltas
    return result.view(-1, *shape)


def gram(
    name: str, base: Source, experts: Mapping[str, Source], *, whole: bool
) -> NDArray[np.float64]:
    """Products of the experts' differences of one tensor, or with `whole` of their weights.

    Returns:
        Shape ``(K, K)``, summed in double precision.
    """
    total = torch.zeros(len(experts), len(experts), dtype=torch.float64)
    for _, first, deltas in _pieces(name, base, experts):
        rows = deltas.double()
        if whole:
            rows += first
        total += rows @ rows.T
    return np.asarray(total.numpy())


def merge_added(
    name: str,
    base: Source,
    experts: Mapping[str, Source],
    row: NDArray[np.float64],
    *,
    scale: float = 1.0,
) -> Tensor:
    """One tensor as ``scale`` times the base plus the differences weighted by `row` ``(K,)``."""
    counting = {e: model for (e, model), w in zip(experts.items(), row, strict=True) if w}
    shape = base.shape(name)
    merged = torch.empty(prod(shape))
    for place, first, deltas in _pieces(name, base, counting):
        first *= scale
        for delta, weight in zip(deltas, row[row != 0], strict=True):
            first.add_(delta, alpha=float(weight))
        merged[place] = first
    return merged.view(shape)


@dataclass(frozen=True)
class Trimming:
    """What TIES has to know of all the entries that it trims together.

    Attributes:
        thresholds: For each expert the smallest magnitude that stays.
        majority: The sign that a position takes where the trimmed values cancel exactly.
    """

    thresholds: tuple[float, ...]
    majority: int

    def apply_(self, deltas: Tensor) -> None:
        """Set what is below the thresholds to 0, in place; `deltas` has shape ``(K, n)``."""
        for row, threshold in zip(deltas, self.thresholds, strict=True):
            row[row.abs() < threshold] = 0


def trimming(
    method: Ties, names: Sequence[str], base: Source, experts: Mapping[str, Source]
) -> Trimming:
    """Thresholds and majority of TIES over these tensors, exact, in three readings of the files.

    The threshold is the k-th largest magnitude: its upper bits come from a histogram over all
    entries, the rest from one over the entries that share those bits.
    """
    keep = count(method.density, sum(prod(base.shape(name)) for name in names))
    K = len(experts)
    upper = torch.zeros(K, _HIGH, dtype=torch.int64)
    for bits in _magnitudes(names, base, experts):
        for k in range(K):
            upper[k] += torch.bincount(bits[k] >> 16, minlength=_HIGH)
    found = [_from_top(row, keep) for row in upper]
    lower = torch.zeros(K, _LOW, dtype=torch.int64)
    for bits in _magnitudes(names, base, experts):
        for k, (top, _) in enumerate(found):
            inside = bits[k][bits[k] >> 16 == top] & (_LOW - 1)
            lower[k] += torch.bincount(inside, minlength=_LOW)
    values = [(top << 16) + _from_top(lower[k], rest)[0] for k, (top, rest) in enumerate(found)]
    thresholds = torch.tensor(values, dtype=torch.int32).view(torch.float32).tolist()
    trim = Trimming(tuple(thresholds), 1)
    balance = 0
    for name in names:
        for _, _, deltas in _pieces(name, base, experts):
            trim.apply_(deltas)
            balance += int(elected_signs(deltas).sum(dtype=torch.int64))
    return Trimming(trim.thresholds, 1 if balance >= 0 else -1)


def _magnitudes(
    names: Sequence[str], base: Source, experts: Mapping[str, Source]
) -> Iterator[Tensor]:
    """Magnitudes as integers of the same order, piece by piece, shape ``(K, n)``."""
    for name in names:
        for _, _, deltas in _pieces(name, base, experts):
            yield deltas.abs_().view(torch.int32)


def _from_top(histogram: Tensor, rank: int) -> tuple[int, int]:
    """Bin of the entry of that rank, 1 for the largest, and its rank within the bin."""
    above = histogram.flip(0).cumsum(0)
    at = int(torch.searchsorted(above, rank))
    return len(histogram) - 1 - at, rank - (int(above[at - 1]) if at else 0)


def merge_trimmed(
    name: str,
    base: Source,
    experts: Mapping[str, Source],
    trim: Trimming,
    row: NDArray[np.float64],
) -> Tensor:
    """One tensor of a TIES merge with the coefficients ``(K,)``."""
    shape = base.shape(name)
    merged = torch.empty(prod(shape))
    for place, first, deltas in _pieces(name, base, experts):
        trim.apply_(deltas)
        disjoint_mean_(deltas, majority=trim.majority)
        for delta, weight in zip(deltas, row, strict=True):
            first.add_(delta, alpha=float(weight))
        merged[place] = first
    return merged.view(shape)
