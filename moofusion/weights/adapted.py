"""A LoRA adapter read as the checkpoint that it makes of its base, piece by piece."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from moofusion.errors import PoolError
from moofusion.weights.adapters import Adapter, Factors, transposed, updates

if TYPE_CHECKING:
    from torch import Tensor, nn

    from moofusion.weights.shards import Checkpoint

__all__ = ["AdaptedCheckpoint"]


class AdaptedCheckpoint:
    """The base with an adapter merged into it; only the factors are held in memory.

    Whole tensors of the adapter (``modules_to_save``) take the place of the base's.

    Args:
        adapter: The adapter.
        base: The checkpoint it was trained on.
        module: The base's modules, which may be without weights (on torch's ``meta`` device).
        role: Who asks, for the messages.

    Attributes:
        names: Names of the tensors, those of the base; a tensor that is tied to another is not
            among them.
        factors: Factors by the name of the tensor in the base that they change.
        layers: For each of those tensors its name in `module`.
        saved: Whole tensors by their name in the base.
        given: Their names in the adapter.

    Raises:
        PoolError: The adapter does not fit the base.
    """

    def __init__(self, adapter: Adapter, base: Checkpoint, module: nn.Module, *, role: str) -> None:
        self.folder, self.role, self.adapter = adapter.folder, role, adapter
        self._base = base
        body = getattr(module, "base_model_prefix", "")
        self.factors: dict[str, Factors] = {}
        self.layers: dict[str, str] = {}
        self._transposed: set[str] = set()
        for full, factors in updates(module, adapter, role=role).items():
            name = self._place(full, body)
            self.factors[name], self.layers[name] = factors, full
            if transposed(module.get_submodule(full.removesuffix(".weight"))):
                self._transposed.add(name)
        self.given = {self._place(name, body): name for name in adapter.saved}
        self.saved = {place: adapter.saved[name] for place, name in self.given.items()}
        everywhere = dict(module.named_parameters(remove_duplicate=False))
        tied = everywhere.keys() - dict(module.named_parameters()).keys()
        self.names = tuple(name for name in base.names if name not in tied)

    def _place(self, name: str, body: str) -> str:
        """Name in the base's files, which may be with the body's prefix or without."""
        for choice in (name, name.removeprefix(f"{body}."), f"{body}.{name}"):
            if choice in self._base:
                return choice
        raise PoolError(
            f"{self.role}: the adapter changes {name}, which the files of {self._base.role} do not "
            "hold; give as base the checkpoint that the adapter was trained on, or merge the "
            "adapter into it with peft (merge_and_unload)"
        )

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self.saved[name].shape) if name in self.saved else self._base.shape(name)

    def format(self, name: str) -> str:
        """Number format of the base's tensor."""
        return self._base.format(name)

    def is_float(self, name: str) -> bool:
        """Whether it can be merged."""
        return self._base.is_float(name)

    def read(self, name: str) -> Tensor:
        """The tensor, in single precision if it can be merged."""
        if not self.is_float(name):
            return self._base.read(name)
        shape = self.shape(name)
        return self.piece(name, slice(0, prod(shape))).view(shape)

    def piece(self, name: str, place: slice) -> Tensor:
        """Entries of the flattened tensor, in single precision."""
        if name in self.saved:
            return self.saved[name].flatten()[place].clone()
        part = self._base.piece(name, place)
        if name not in self.factors:
            return part
        own = self.factors[name]
        left, right = (own.A.T, own.B.T) if name in self._transposed else (own.B, own.A)
        columns = right.shape[1]
        first, last = place.start // columns, -(-(place.start + len(part)) // columns)
        rows = (left[first:last] @ right).mul_(own.scale).flatten()
        return part + rows[place.start - first * columns :][: len(part)]
