"""Merges that read checkpoints in pieces: what a method needs of whole tensors is collected first.

Files are memory-mapped, so a piece costs its own size and no more; memory does not grow with the
size of a model, and hardly with the number of experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import isfinite, prod
from typing import TYPE_CHECKING

import numpy as np
import torch

from moofusion.errors import PoolError
from moofusion.merging.methods.sparse import count, disjoint_mean_, elected_signs, magnitudes_at

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from moofusion.merging.methods import Ties
    from moofusion.merging.methods.sparse import DroppingTransform
    from moofusion.weights.adapted import AdaptedCheckpoint
    from moofusion.weights.shards import Checkpoint

    Source = Checkpoint | AdaptedCheckpoint

__all__ = [
    "Source",
    "Trimming",
    "add_base_",
    "difference",
    "finite",
    "gram",
    "merge_added",
    "merge_dropped",
    "merge_summed",
    "merge_trimmed",
    "trimming",
]

# Entries in memory at a time, over all experts.
_ENTRIES = 1 << 20


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
    # The sum says so at a tenth of the cost; it may overflow, so it does not say the contrary.
    if not isfinite(float(tensor.sum())) and not bool(tensor.isfinite().all()):
        raise PoolError(
            f"{model.role}: tensor {name} holds NaN or infinite values; a merge would spread them, "
            "so fix or leave out this model"
        )
    return tensor


def _pieces(
    name: str, base: Source, experts: Mapping[str, Source], *, columns: int = 1
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Place, base ``(n,)`` and differences ``(K, n)`` of pieces; n is a multiple of `columns`."""
    size = prod(base.shape(name))
    step = max(1, _ENTRIES // (max(len(experts), 1) * columns)) * columns
    for start in range(0, size, step):
        place = slice(start, min(start + step, size))
        first = finite(base, name, place)
        deltas = torch.empty(len(experts), len(first))
        for delta, expert in zip(deltas, experts.values(), strict=True):
            torch.sub(finite(expert, name, place), first, out=delta)
        yield place, first, deltas


def difference(name: str, base: Source, expert: Source) -> Tensor:
    """An expert's difference of one tensor."""
    shape = base.shape(name)
    result = torch.empty(prod(shape))
    for place, _, deltas in _pieces(name, base, {"": expert}):
        result[place] = deltas[0]
    return result.view(shape)


def gram(
    name: str, base: Source, experts: Mapping[str, Source], *, whole: bool
) -> NDArray[np.float64]:
    """Products of the experts' differences of one tensor, or with `whole` of their weights.

    Returns:
        Shape ``(K, K)``, summed in double precision.
    """
    total = torch.zeros(len(experts), len(experts), dtype=torch.float64)
    if whole:
        for place in _places(prod(base.shape(name)), len(experts)):
            total += _products([finite(e, name, place).double() for e in experts.values()])
        return np.asarray(total.numpy())
    for _, _, deltas in _pieces(name, base, experts):
        total += _products(list(deltas.double()))
    return np.asarray(total.numpy())


def _products(rows: Sequence[Tensor]) -> Tensor:
    """All products of vectors, one by one: few and long, they are slower as a matrix product."""
    K = len(rows)
    result = torch.empty(K, K, dtype=rows[0].dtype)
    for i, j in combinations_with_replacement(range(K), 2):
        result[i, j] = result[j, i] = torch.dot(rows[i], rows[j])
    return result


def _places(size: int, experts: int) -> Iterator[slice]:
    step = max(1, _ENTRIES // max(experts, 1))
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def merge_summed(name: str, models: Mapping[str, Source], row: NDArray[np.float64]) -> Tensor:
    """One tensor as the sum of the models' own, weighted by `row` ``(K,)``."""
    shape = next(iter(models.values())).shape(name)
    merged = torch.zeros(prod(shape))
    for place in _places(len(merged), 1):
        for model, weight in zip(models.values(), row, strict=True):
            if weight:
                merged[place].add_(finite(model, name, place), alpha=float(weight))
    return merged.view(shape)


def add_base_(change: Tensor, name: str, base: Source) -> Tensor:
    """Add the base's tensor to a change of it, in place."""
    flat = change.view(-1)
    for place in _places(len(flat), 1):
        flat[place] += finite(base, name, place)
    return change


def merge_added(
    name: str,
    base: Source,
    experts: Mapping[str, Source],
    row: NDArray[np.float64],
) -> Tensor:
    """One tensor as the base plus the differences weighted by `row` ``(K,)``."""
    counting = {e: model for (e, model), w in zip(experts.items(), row, strict=True) if w}
    shape = base.shape(name)
    merged = torch.empty(prod(shape))
    for place, first, deltas in _pieces(name, base, counting):
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
    """Thresholds and majority of TIES over these tensors, exact, in three readings of the files."""
    size = sum(prod(base.shape(name)) for name in names)

    def read() -> Iterator[Tensor]:
        for name in names:
            for _, _, deltas in _pieces(name, base, experts):
                yield deltas

    rank = size - count(method.density, size)
    found = magnitudes_at(read, [rank], experts=len(experts), size=size)
    thresholds = [own[0][0] for own in found]
    trim = Trimming(tuple(thresholds), 1)
    balance = 0
    for deltas in read():
        trim.apply_(deltas)
        balance += int(elected_signs(deltas).sum(dtype=torch.int64))
    return Trimming(trim.thresholds, 1 if balance >= 0 else -1)


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


def merge_dropped(
    name: str,
    base: Source,
    experts: Mapping[str, Source],
    method: DroppingTransform,
    row: NDArray[np.float64],
    *,
    called: str,
) -> Tensor:
    """One tensor of a merge by a method that drops entries, with the coefficients ``(K,)``.

    Args:
        name: Its name in the files.
        base: The base.
        experts: The experts.
        method: The method.
        row: Coefficients.
        called: Its name for the method.
    """
    if method.separate:
        experts = {e: model for (e, model), w in zip(experts.items(), row, strict=True) if w}
        row = row[row != 0]
    shape = base.shape(name)
    columns = prod(shape[1:]) if len(shape) > 1 else prod(shape)

    def read() -> Iterator[Tensor]:
        for _, _, deltas in _pieces(name, base, experts, columns=max(columns, 1)):
            yield deltas.view(len(experts), -1, *shape[1:])

    merged = finite(base, name).flatten()
    if not experts:
        return merged.view(shape)
    rest = merged
    names = tuple(experts)
    for piece in method.rewrite_pieces(read, size=len(merged), name=called, experts=names):
        for delta, weight in zip(piece, row, strict=True):
            rest[: delta.numel()].add_(delta.flatten(), alpha=float(weight))
        rest = rest[piece[0].numel() :]
    return merged.view(shape)
