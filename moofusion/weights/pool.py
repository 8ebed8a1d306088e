"""The model pool: a base and its experts, checked against each other and laid out flat."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moofusion.errors import ConfigurationError, PoolError
from moofusion.weights.adapters import (
    Adapter,
    adapted_module,
    add_,
    is_adapter,
    read_adapter,
    transposed,
    updates,
)
from moofusion.weights.layout import ParameterLayout
from moofusion.weights.sources import (
    TASK_HEADED,
    TOKENIZER_FILES,
    TOWERS,
    architecture,
    find_folder,
    open_model,
)
from moofusion.weights.vectors import TaskVectors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from moofusion.weights.flat import FlatModel

__all__ = ["LoadedPool", "ModelPool", "body_prefix"]


@dataclass
class LoadedPool:
    """A pool in memory: one flat buffer of weights, task vectors, and a module for every head.

    Attributes:
        vectors: Base weights and task vectors.
        model: The flat buffer and the modules whose parameters are views of it; its module
            ``"base"`` carries the base's own head, the others the head of their expert.
        folders: Where each model came from (None for a module).
        adapters: The experts that were LoRA adapters.

    Example:
        >>> from moofusion.testing import toy_pool
        >>> loaded = toy_pool().load()
        >>> loaded.vectors.names, sorted(loaded.model.modules)
        (('a', 'b', 'c'), ['a', 'b', 'base', 'c'])
    """

    vectors: TaskVectors
    model: FlatModel
    folders: dict[str, Path | None] = field(default_factory=dict)
    adapters: dict[str, Adapter] = field(default_factory=dict)

    @property
    def layout(self) -> ParameterLayout:
        """Places of the merged tensors."""
        return self.vectors.layout


class ModelPool:
    """One base model and K fine-tuned experts of the same architecture.

    Args:
        base: Folder, hub id (``owner/name`` or ``owner/name@revision``) or module of the base. Of a
            CLIP model whose experts are vision towers, the vision tower is taken.
        experts: The same for each expert, by name. At least one. Or local folders of LoRA adapters
            of the base, as peft writes them: the expert is the base with that adapter merged into
            it, and what the adapter saved whole (``modules_to_save``) is its head.
        heads: What stays outside the merge and belongs to the tasks. ``"auto"``: everything
            outside the body for classifiers (transformers' ``...ForXClassification``), nothing for
            language models and plain modules. ``"none"``: all tensors are merged. Or patterns on
            tensor names, for example ``["classifier.*"]``.
        allow_pickle: Accept pickled weights, which can run code when read.

    Raises:
        ConfigurationError: No expert, or a name that cannot be used.

    Example:
        >>> from torch import nn
        >>> pool = ModelPool(nn.Linear(2, 2), {"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
        >>> pool.load().vectors.deltas.shape[0]
        2
    """

    def __init__(
        self,
        base: str | Path | nn.Module,
        experts: Mapping[str, str | Path | nn.Module],
        *,
        heads: str | Sequence[str] = "auto",
        allow_pickle: bool = False,
    ) -> None:
        if not experts:
            raise ConfigurationError("a pool needs at least one expert, got none")
        for name in experts:
            if not re.fullmatch(r"[\w.-]+", name) or name == "base":
                raise ConfigurationError(
                    f"expert name {name!r}: use letters, digits, '.', '_' and '-'; "
                    "'base' is taken by the base model"
                )
        if isinstance(heads, str) and heads not in ("auto", "none"):
            raise ConfigurationError(
                f"heads={heads!r}: expected 'auto', 'none' or a list of patterns on tensor names"
            )
        self.base = base
        self.experts = dict(experts)
        self.heads = heads if isinstance(heads, str) else tuple(heads)
        self.allow_pickle = allow_pickle

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the experts, in the order of the coefficients."""
        return tuple(self.experts)

    def __repr__(self) -> str:
        def show(source: object) -> str:
            return str(source) if isinstance(source, str | Path) else type(source).__name__

        experts = ", ".join(f"{name}={show(source)}" for name, source in self.experts.items())
        return f"ModelPool(base={show(self.base)}, {experts})"

    def load(self, *, device: str | torch.device = "cpu") -> LoadedPool:
        """Read every model once, check it, and lay the weights out flat on `device`.

        Returns:
            Task vectors and modules; peak memory is (K + 2) models plus the one being read.

        Raises:
            PoolError: A model cannot be read, holds NaN or infinite values, or does not fit the
                base in architecture, tensor names, shapes or vocabulary.
        """
        import torch

        from moofusion.weights.flat import FlatModel

        base, base_folder = self._open("base", self.base)
        base_tensors = self._merged(base)
        vectors: list[tuple[Tensor, Tensor]] = []
        modules: dict[str, nn.Module] = {}
        folders: dict[str, Path | None] = {"base": base_folder}
        adapters: dict[str, Adapter] = {}
        layout: ParameterLayout | None = None
        for index, (name, source) in enumerate(self.experts.items()):
            role = f"expert {name!r}"
            if is_adapter(source):
                assert isinstance(source, str | Path)
                adapters[name] = read_adapter(source, role=role)
                expert = adapted_module(base, adapters[name], role=role)
                folders[name] = adapters[name].folder
            else:
                expert, folders[name] = self._open(role, source)
            tensors = self._merged(expert)
            _check_same_family(name, base, expert, base_folder, folders[name])
            if layout is None:
                # A base without task heads can hold a pooler or a head that no expert uses.
                extra = [key for key in base_tensors if key not in tensors]
                if _is_headed(expert) and not _is_headed(base):
                    extra = [key for key in extra if "pooler" not in key.split(".")]
                if not extra:
                    base_tensors = {k: v for k, v in base_tensors.items() if k in tensors}
                # A pooler that the base never had was made for the task, as its head was.
                poolers = {k for k in tensors if _is_headed(expert) and "pooler" in k.split(".")}
                poolers -= base_tensors.keys()
                layout = ParameterLayout({k: tuple(v.shape) for k, v in base_tensors.items()})
                flat_base = torch.zeros(layout.size, device=device)
                deltas = torch.zeros(len(self.experts), layout.size, device=device)
                scratch = torch.zeros(layout.size, device=device)
                _fill(layout, base_tensors, flat_base, "base")
            tensors = {k: v for k, v in tensors.items() if k not in poolers}
            if name in adapters:  # they have all of the base
                tensors = {k: tensors[k] for k in base_tensors}
            _check_same_tensors(name, base_tensors, tensors)
            _fill(layout, tensors, scratch, role)
            if name in adapters:
                self._adapt(layout, expert, adapters[name], scratch, role)
            vectors.append(TaskVectors.subtract(flat_base, scratch, deltas[index]))
            modules[name] = expert
        assert layout is not None
        modules["base"] = base
        task_vectors = TaskVectors(layout, self.names, flat_base, deltas, tuple(vectors))
        model = FlatModel(layout, scratch.copy_(flat_base), modules, self._canonical_names)
        return LoadedPool(task_vectors, model, folders, adapters)

    def _adapt(
        self, layout: ParameterLayout, module: nn.Module, adapter: Adapter, flat: Tensor, role: str
    ) -> None:
        """Add an adapter to flat weights of its base, one tensor at a time."""
        names = self._canonical_names(module)
        entries = {entry.name: entry for entry in layout.entries}
        for full, factors in updates(module, adapter, role=role).items():
            entry = entries.get(names.get(full, ""))
            if entry is None:
                raise PoolError(
                    f"{role}: the adapter changes {full}, which is not merged (heads="
                    f"{self.heads!r}); with heads='none' everything is"
                )
            layer = module.get_submodule(full.removesuffix(".weight"))
            place = flat[entry.slice].view(entry.shape)
            add_(place, factors, transpose=transposed(layer))

    def _open(self, role: str, source: str | Path | nn.Module) -> tuple[nn.Module, Path | None]:
        tower = None
        if role == "base" and isinstance(source, str | Path):
            folder = find_folder(source, role=role, allow_pickle=self.allow_pickle)
            tower = self._first_class() if architecture(folder, role=role) in TOWERS else None
        return open_model(source, role=role, allow_pickle=self.allow_pickle, tower=tower)

    def _merged(self, model: nn.Module) -> dict[str, Tensor]:
        """Tensors that are merged, by canonical name."""
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {short: state[full].detach() for full, short in self._canonical_names(model).items()}

    def _canonical_names(self, model: nn.Module) -> dict[str, str]:
        """Merged tensors of `model`: its own name to the name without the body's prefix.

        Tied weights appear once; non-float and non-persistent buffers do not appear.
        """
        persistent = model.state_dict(keep_vars=True)
        names = [name for name, _ in model.named_parameters()]
        names += [n for n, b in model.named_buffers() if n in persistent and b.is_floating_point()]
        prefix = body_prefix(model)
        inside = [name for name in names if prefix and name.startswith(prefix)]
        if isinstance(self.heads, tuple):
            names = [n for n in names if not any(fnmatch.fnmatchcase(n, p) for p in self.heads)]
            if not names:
                raise ConfigurationError(f"heads={list(self.heads)} leaves nothing to merge")
        elif self.heads == "auto" and _is_headed(model) and inside:
            names = inside
        elif self.heads == "auto" and inside and self._experts_are_headed():
            names = inside
        return {n: n.removeprefix(prefix) for n in names}

    def _experts_are_headed(self) -> bool:
        """Whether the first expert keeps a task head."""
        source = self._first_full()
        if not isinstance(source, str | Path):
            return _is_headed(source)
        return bool(TASK_HEADED.search(self._first_class()))

    def _first_full(self) -> str | Path | nn.Module:
        """The first expert that is a model of its own; the base, where all are adapters."""
        full = (source for source in self.experts.values() if not is_adapter(source))
        return next(full, self.base)

    def _first_class(self) -> str:
        """Class of the first expert, read from its configuration alone."""
        source = self._first_full()
        if not isinstance(source, str | Path):
            return type(source).__name__
        name = next((n for n, own in self.experts.items() if own is source), "base")
        role = "base" if name == "base" else f"expert {name!r}"
        folder = find_folder(source, role=role, allow_pickle=self.allow_pickle)
        return architecture(folder, role=role)


def _is_headed(model: nn.Module) -> bool:
    return bool(TASK_HEADED.search(type(model).__name__)) and hasattr(model, "base_model_prefix")


def body_prefix(model: nn.Module) -> str:
    """Prefix of the body's tensors within a model with a head, ``"vit."``; empty without one."""
    named = getattr(model, "base_model_prefix", "")
    children = dict(model.named_children())
    if named and named in children:
        return f"{named}."
    # CLIPForImageClassification and its kin keep their body under another name.
    bodies = [name for name, child in children.items() if hasattr(child, "base_model_prefix")]
    return f"{bodies[0]}." if _is_headed(model) and len(bodies) == 1 else ""


def _fill(layout: ParameterLayout, tensors: Mapping[str, Tensor], out: Tensor, role: str) -> None:
    """Copy the tensors to their places in the flat buffer `out`."""
    for entry in layout.entries:
        place = out[entry.slice].view(entry.shape)
        place.copy_(tensors[entry.name])
        if not bool(place.isfinite().all()):
            count = int((~place.isfinite()).sum())
            raise PoolError(
                f"{role}: tensor {entry.name} holds {count} NaN or infinite value(s); "
                "a merge would spread them, so fix or leave out this model"
            )


def _check_same_family(
    name: str, base: nn.Module, expert: nn.Module, base_folder: Path | None, folder: Path | None
) -> None:
    base_config, config = getattr(base, "config", None), getattr(expert, "config", None)
    if base_config is None or config is None:
        return
    for what, attribute in (("architecture", "model_type"), ("vocabulary size", "vocab_size")):
        mine, theirs = getattr(config, attribute, None), getattr(base_config, attribute, None)
        if mine != theirs:
            raise PoolError(
                f"expert {name!r} has another {what} than the base: {mine!r} instead of "
                f"{theirs!r}; only models fine-tuned from the same base can be merged"
            )
    if base_folder is not None and folder is not None:
        _check_same_vocabulary(name, base_folder, folder)


def _check_same_vocabulary(name: str, base: Path, expert: Path) -> None:
    """Compare the tokenizers, if both models bring one; equal files settle it without loading."""
    for file in TOKENIZER_FILES:
        mine, theirs = expert / file, base / file
        if not (mine.exists() and theirs.exists()):
            continue
        if _digest(mine) == _digest(theirs):
            return
        from transformers import AutoTokenizer

        left: dict[str, int] = AutoTokenizer.from_pretrained(expert).get_vocab()
        right: dict[str, int] = AutoTokenizer.from_pretrained(base).get_vocab()
        differing = sorted(t for t in left.keys() | right.keys() if left.get(t) != right.get(t))
        if differing:
            raise PoolError(
                f"expert {name!r} has another vocabulary than the base: {len(differing)} token(s) "
                f"differ, the first are {differing[:3]}; its embedding rows mean other words"
            )
        return


def _digest(file: Path) -> bytes:
    return hashlib.blake2b(file.read_bytes()).digest()


def _check_same_tensors(name: str, base: Mapping[str, Any], expert: Mapping[str, Any]) -> None:
    missing = [key for key in base if key not in expert]
    extra = [key for key in expert if key not in base]
    wrong = [key for key in base if key in expert and base[key].shape != expert[key].shape]
    if not (missing or extra or wrong):
        return
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in (("missing", missing), ("extra", extra))
        if keys
    ]
    if wrong:
        key = wrong[0]
        parts.append(
            f"{len(wrong)} of another shape ({key} is {tuple(expert[key].shape)}, "
            f"the base's is {tuple(base[key].shape)})"
        )
    raise PoolError(
        f"expert {name!r} does not fit the base; tensors: {'; '.join(parts)}. "
        "Only models fine-tuned from the same base can be merged"
    )
