"""The flat layout: every merged tensor has its place in one buffer, and every group is a segment.

Tensors are ordered by block, then by role within the block (attention, MLP, ...), then as the
model lists them, so that the groups of every granularity, and "the MLP of block 3", are each one
contiguous run of the buffer.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError, UnknownNameError

__all__ = ["GRANULARITIES", "ROLES", "Entry", "ParameterLayout", "Partition"]

GRANULARITIES = ("model", "block", "module", "tensor")
ROLES = ("attention", "mlp", "norm", "embedding", "other")
STATIC = -1

# Tensors start at multiples of 64 bytes, as the allocator would place them.
_ALIGNMENT = 16

_NORM = re.compile(r"norm|^ln(_|\d|$)|^bn\d*$", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention|^(q|k|v|o|qkv|out)_(proj|lin)$", re.IGNORECASE)
_MLP = re.compile(
    r"mlp|^ffn?$|^ffn_|feed_?forward|^intermediate$|^fc\d?$|^output$|^experts?$|"
    r"^(gate|up|down)_proj$|^lin[12]$|^wi(_\d)?$|^wo$",
    re.IGNORECASE,
)
_EMBEDDING = re.compile(r"embed|^wte$|^wpe$|^shared$|_token$", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One tensor of the flat buffer.

    Attributes:
        name: Name of the tensor in the merged part of the model.
        shape: Its shape.
        offset: Index of its first element in the buffer.
        size: Number of elements.
        block: Label of the repeated block it belongs to (``"stem"``, ``"final"`` outside of them).
        module: Name of the module that owns it.
        role: One of :data:`ROLES`, read off the names.

    Example:
        >>> layout = ParameterLayout({"emb.weight": (8, 4), "layers.0.mlp.weight": (4, 4),
        ...                           "layers.1.mlp.weight": (4, 4)})
        >>> entry = layout.entries[1]
        >>> entry.name, entry.block, entry.role, entry.size
        ('layers.0.mlp.weight', 'layers.0', 'mlp', 16)
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int
    block: str
    module: str
    role: str

    @property
    def slice(self) -> slice:
        """Place of the tensor in the buffer."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Partition:
    """Which run of the flat buffer takes which row of the coefficients.

    Attributes:
        granularity: One of :data:`GRANULARITIES`.
        names: Names of the G groups.
        segments: Triples ``(start, stop, group)`` that cover the buffer in order; group ``-1``
            is the static part, which is merged with fixed coefficients.
        depth: Position of each group between the first block (0) and the last (1), shape ``(G,)``.
        sizes: Number of parameters in each group, shape ``(G,)``, padding left out.
        groups: Group of each entry of the layout, ``-1`` where static.

    Example:
        >>> layout = ParameterLayout({"emb.weight": (8, 4), "layers.0.mlp.weight": (4, 4),
        ...                           "layers.1.mlp.weight": (4, 4)})
        >>> blocks = layout.partition("block")
        >>> blocks.names, blocks.sizes
        (('stem', 'layers.0', 'layers.1'), array([32, 16, 16]))
    """

    granularity: str
    names: tuple[str, ...]
    segments: tuple[tuple[int, int, int], ...]
    depth: NDArray[np.float64]
    sizes: NDArray[np.int64]
    groups: tuple[int, ...]

    @property
    def n_groups(self) -> int:
        """Number of groups G."""
        return len(self.names)

    @property
    def has_static(self) -> bool:
        """Whether a part of the model keeps fixed coefficients."""
        return STATIC in self.groups

    def only(self, keep: NDArray[np.bool_]) -> Partition:
        """The same groups, of which all but those in the mask ``(G,)`` count as static.

        For passes that need a part of the groups; their numbers stay.
        """
        kept = {group for group in range(self.n_groups) if keep[group]}
        return replace(
            self,
            segments=tuple((a, b, g if g in kept else STATIC) for a, b, g in self.segments),
            groups=tuple(g if g in kept else STATIC for g in self.groups),
        )


class ParameterLayout:
    """Order and offsets of the merged tensors in one flat buffer.

    Blocks are derived from the names alone: the outermost indexed container with at least two
    members (``encoder.layer.0``, ``h.3``, ``model.layers.17``, ...) makes the blocks, whatever
    the architecture calls it.

    Args:
        shapes: Tensor names and shapes, in the order of the model.

    Example:
        >>> layout = ParameterLayout({"emb.weight": (8, 4), "layers.0.mlp.weight": (4, 4),
        ...                           "layers.1.mlp.weight": (4, 4), "norm.weight": (4,)})
        >>> layout.partition("block").names
        ('stem', 'layers.0', 'layers.1', 'final')
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        if not shapes:
            raise ConfigurationError("a layout needs at least one tensor, got none")
        # Models list their buffers after all parameters; here a module keeps its tensors together.
        members: dict[str, list[str]] = {}
        for name in shapes:
            members.setdefault(name.rpartition(".")[0] or name, []).append(name)
        names = [name for own in members.values() for name in own]
        modules = [module for module, own in members.items() for _ in own]
        roles = [_role(own[0]) for own in members.values() for _ in own]
        blocks = _blocks(names)
        inner = [label for label in blocks if label != "final"]
        order = {label: i for i, label in enumerate(dict.fromkeys(["stem", *inner, "final"]))}
        ranked = sorted(
            range(len(names)), key=lambda i: (order[blocks[i]], ROLES.index(roles[i]), i)
        )
        entries: list[Entry] = []
        offset = 0
        for i in ranked:
            shape = tuple(int(n) for n in shapes[names[i]])
            entries.append(
                Entry(names[i], shape, offset, prod(shape), blocks[i], modules[i], roles[i])
            )
            offset += -(-prod(shape) // _ALIGNMENT) * _ALIGNMENT
        self.entries = tuple(entries)
        self.size = offset

    def __repr__(self) -> str:
        return (
            f"ParameterLayout({len(self.entries)} tensors, {self.n_parameters:,} parameters, "
            f"{len(self.blocks)} blocks)"
        )

    @cached_property
    def n_parameters(self) -> int:
        """Number of merged parameters, padding left out."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """Labels of the blocks, from input to output, ``stem`` and ``final`` included."""
        return tuple(dict.fromkeys(entry.block for entry in self.entries))

    def partition(
        self, granularity: str = "model", *, select: str | Sequence[str] | None = None
    ) -> Partition:
        """Cut the buffer into groups.

        Args:
            granularity: ``"model"`` (one group), ``"block"``, ``"module"`` or ``"tensor"``.
            select: What is grouped at all; the rest becomes static. Roles joined by ``+``
                (``"mlp"``, ``"mlp+attention"``), or patterns on tensor names
                (``"layers.[0-3].*"``), or a list of either. None selects everything.

        Returns:
            The groups, in the order of the buffer.

        Raises:
            ConfigurationError: An unknown granularity, or a selection that matches nothing.
        """
        if granularity not in GRANULARITIES:
            raise UnknownNameError("granularity", granularity, GRANULARITIES)
        chosen = self._selected(select)
        labels: dict[str, int] = {}
        runs: list[tuple[int, int, int]] = []
        sizes: list[int] = []
        depths: list[list[float]] = []
        groups: list[int] = []
        position = self._depth_of_blocks()
        for index, entry in enumerate(self.entries):
            if entry.name in chosen:
                label = {
                    "model": "model",
                    "block": entry.block,
                    "module": entry.module,
                    "tensor": entry.name,
                }[granularity]
                group = labels.setdefault(label, len(labels))
                if group == len(sizes):
                    sizes.append(0)
                    depths.append([])
                sizes[group] += entry.size
                depths[group].append(position[entry.block])
            else:
                group = STATIC
            groups.append(group)
            stop = self.entries[index + 1].offset if index + 1 < len(self.entries) else self.size
            if runs and runs[-1][2] == group:
                runs[-1] = (runs[-1][0], stop, group)
            else:
                runs.append((entry.offset, stop, group))
        return Partition(
            granularity,
            tuple(labels),
            tuple(runs),
            np.array([float(np.mean(d)) for d in depths]),
            np.array(sizes, dtype=np.int64),
            tuple(groups),
        )

    def _selected(self, select: str | Sequence[str] | None) -> set[str]:
        if select is None:
            return {entry.name for entry in self.entries}
        wanted = [select] if isinstance(select, str) else list(select)
        chosen: set[str] = set()
        for want in wanted:
            parts = set(want.split("+"))
            hits = (
                {entry.name for entry in self.entries if entry.role in parts}
                if parts <= set(ROLES)
                else {e.name for e in self.entries if fnmatch.fnmatchcase(e.name, want)}
            )
            if not hits:
                raise ConfigurationError(
                    f"the selection {want!r} matches no tensor; use roles joined by '+' "
                    f"({', '.join(sorted({e.role for e in self.entries}))}) or a pattern on names "
                    f"such as {self.entries[0].name!r}"
                )
            chosen |= hits
        return chosen

    def _depth_of_blocks(self) -> dict[str, float]:
        inner = [label for label in self.blocks if label not in ("stem", "final")]
        depth = {label: i / max(len(inner) - 1, 1) for i, label in enumerate(inner)}
        return {"stem": 0.0, "final": 1.0} | depth


def _blocks(names: Sequence[str]) -> list[str]:
    """Block label of each name: its outermost indexed container with two or more members."""
    members: dict[str, set[str]] = {}
    for name in names:
        tokens = name.split(".")
        for i, token in enumerate(tokens):
            if token.isdigit():
                members.setdefault(".".join(tokens[:i]), set()).add(token)
    labels: list[str] = []
    seen_block = False
    for name in names:
        tokens = name.split(".")
        label = "final" if seen_block else "stem"
        for i, token in enumerate(tokens):
            if token.isdigit() and len(members[".".join(tokens[:i])]) > 1:
                label, seen_block = ".".join(tokens[: i + 1]), True
                break
        labels.append(label)
    return labels


def _role(name: str) -> str:
    """Role of a tensor, from the names of the modules around it."""
    tokens = name.split(".")
    owners = tokens[:-1] or tokens
    if _NORM.search(owners[-1]):
        return "norm"
    for role, pattern in (("attention", _ATTENTION), ("mlp", _MLP), ("embedding", _EMBEDDING)):
        if any(pattern.search(token) for token in owners):
            return role
    return "embedding" if _EMBEDDING.search(tokens[-1]) else "other"
