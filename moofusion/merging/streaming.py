"""Merging checkpoints tensor by tensor, from disk to disk: models that do not fit into memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moofusion.errors import ConfigurationError, PoolError
from moofusion.merging.methods import (
    Average,
    Linear,
    MergeMethod,
    ModelStock,
    Slerp,
    TensorTransform,
    Ties,
)
from moofusion.merging.methods.base import shares
from moofusion.merging.methods.sparse import DroppingTransform
from moofusion.merging.methods.stock import step_of
from moofusion.merging.pieces import (
    Trimming,
    add_base_,
    difference,
    finite,
    gram,
    merge_added,
    merge_dropped,
    merge_summed,
    merge_trimmed,
    trimming,
)
from moofusion.merging.recipe import MergeRecipe
from moofusion.weights.adapted import AdaptedCheckpoint
from moofusion.weights.adapters import is_adapter, read_adapter
from moofusion.weights.folders import copy_companions, new_folder
from moofusion.weights.shards import Checkpoint, ShardWriter, format_of
from moofusion.weights.sources import empty_model, find_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from moofusion.merging.pieces import Source

__all__ = ["StreamedMerge", "merge_checkpoints", "recipe_card"]

_COPIED = ("config.json", "generation_config.json")


def merge_checkpoints(
    recipe: MergeRecipe,
    to: str | Path,
    *,
    shard_bytes: int = 5 * 10**9,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Merge checkpoints of one architecture and write the result, one tensor at a time.

    Arithmetic is in float32, whatever the files hold; the result is rounded once. Memory is some
    two times the largest tensor in float32, whatever the number of experts, for ``linear``,
    ``average``, ``slerp``, ``model-stock`` and ``ties`` (which reads the files four times); a few
    times that tensor for methods that treat the experts apart; others hold the tensor of all K
    experts and their work on it. Of experts that are LoRA adapters the factors are in memory, and
    their products piece by piece. Tensors that are no floats (buffers of positions) come from the
    base; configuration, tokenizer and processor too. The folder appears when it is complete.

    A tensor has the same value as in a merge in memory with the same coefficients, to rounding;
    a one-hot row gives that expert bit for bit where the method does.

    Args:
        recipe: What to merge.
        to: Folder to write; it must not exist, unless `force`.
        shard_bytes: Largest file that is written.
        force: Replace an earlier merge.
        progress: Called with the tensors done and their number.

    Returns:
        The folder.

    Raises:
        PoolError: A checkpoint cannot be read, or does not fit the others.
        ConfigurationError: The method needs more than one tensor at a time.
        RunError: `to` exists, or cannot be written.
    """
    merge = StreamedMerge(recipe)
    names, base = merge.names, merge.base
    formats = {
        name: base.format(name)
        if recipe.dtype == "same" or not base.is_float(name)
        else format_of(recipe.dtype)
        for name in names
    }
    to = Path(to)
    with new_folder(to, mark="merge.json", force=force) as folder:
        announced = {name: (formats[name], base.shape(name)) for name in names}
        with ShardWriter(folder, announced, shard_bytes=shard_bytes) as writer:
            for done, name in enumerate(names):
                if progress is not None:
                    progress(done, len(names))
                writer.write(name, merge.tensor(name))
        _write_companions(recipe, base.folder, folder)
        if progress is not None:
            progress(len(names), len(names))
    return to


class StreamedMerge:
    """The merge of a recipe, one tensor after the other.

    Args:
        recipe: What to merge.

    Attributes:
        base: The base, or the first expert where the recipe has none.
        experts: Checkpoints by name; adapters as the checkpoints that they make of the base.
        names: Tensors of the result, in the order of the base.
        module: Modules of the base without weights, where an expert is an adapter.

    Raises:
        PoolError: A checkpoint cannot be read, or does not fit the others.
        ConfigurationError: The method needs more than one tensor at a time.
    """

    def __init__(self, recipe: MergeRecipe) -> None:
        self.recipe, self.method = recipe, recipe.method
        _check_streams(self.method)
        self.module: nn.Module | None = None
        base = None if recipe.base is None else self._open("base", None)
        self.experts = {name: self._open(name, base) for name in recipe.experts}
        self.base = next(iter(self.experts.values())) if base is None else base
        self.names = _common_names(self.base, self.experts)
        self._trim: Trimming | None = None

    def _open(self, name: str, base: Source | None) -> Source:
        role = "base" if name == "base" else f"expert {name!r}"
        folder = find_folder(self.recipe.source(name), role=role)
        if not is_adapter(folder):
            return Checkpoint(folder, role=role)
        if name == "base":
            raise PoolError(f"base: {folder} holds a LoRA adapter; give the model it was made for")
        if not isinstance(base, Checkpoint):
            raise PoolError(
                f"{role}: {folder} holds a LoRA adapter, so the recipe has to name its base"
            )
        if self.module is None:
            self.module = empty_model(base.folder, role="base")
        return AdaptedCheckpoint(read_adapter(folder, role=role), base, self.module, role=role)

    def tensor(self, name: str) -> Tensor:
        """The merged tensor, in single precision; as it is in the base if it is not of floats."""
        base, experts, method = self.base, self.experts, self.method
        if isinstance(method, Ties) and method.scope == "model" and self._trim is None:
            floats = [name for name in self.names if base.is_float(name)]
            self._trim = trimming(method, floats, base, experts)
        return _merged(name, base, experts, method, self.recipe.row(name), self._trim)


def _check_streams(method: MergeMethod) -> None:
    if not isinstance(method, Linear | Average | Slerp | Ties | TensorTransform):
        raise ConfigurationError(
            f"merge method {method.name!r} needs more than one tensor at a time, so it cannot "
            "merge checkpoints from disk to disk; search a problem with it and export the result"
        )


def _common_names(base: Source, experts: dict[str, Source]) -> tuple[str, ...]:
    """Names of the tensors to write, in the order of the base.

    Some files repeat the output layer that is tied to the embedding and others do not; it is left
    out then, as transformers does.
    """
    everyone = [base, *experts.values()]
    tied = _tied_output(base.folder)
    drop = {tied} if any(tied not in model for model in everyone) else set()
    names = [name for name in base.names if name not in drop]
    for model in everyone[1:]:
        own = [name for name in model.names if name not in drop]
        missing = [name for name in names if name not in model]
        extra = [name for name in own if name not in base]
        wrong = [n for n in names if n in model and model.shape(n) != base.shape(n)]
        parts = [
            f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
            for what, found in (("missing", missing), ("extra", extra), ("of another shape", wrong))
            if found
        ]
        if parts:
            raise PoolError(
                f"{model.role} does not fit {base.role}; tensors: {'; '.join(parts)}. Checkpoints "
                "are merged name by name; models with heads of their own are merged by a problem "
                "file"
            )
    return tuple(names)


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of a checkpoint; empty where it cannot be read."""
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _tied_output(folder: Path) -> str | None:
    """Name of the output layer if the configuration ties it to the embedding."""
    config = _config(folder)
    # GPT-2 and others tie by default and do not write it down.
    tied = config.get("tie_word_embeddings", config.get("model_type") in ("gpt2", "t5", "bart"))
    return "lm_head.weight" if tied else None


def _body_prefix(folder: Path) -> str:
    """Prefix of the body's tensors, which models in memory are laid out without.

    Seeded masks depend on names, and are to be those of a search in memory.
    """
    import transformers

    try:
        model: Any = getattr(transformers, _config(folder)["architectures"][0])
    except (KeyError, IndexError, TypeError, AttributeError):
        return ""  # a checkpoint of another library
    return f"{model.base_model_prefix}."


def _merged(
    name: str,
    base: Source,
    experts: dict[str, Source],
    method: MergeMethod,
    row: NDArray[np.float64],
    trim: Trimming | None,
) -> Tensor:
    if not base.is_float(name):
        return base.read(name)
    if isinstance(method, Ties):
        if trim is None:
            trim = trimming(method, [name], base, experts)
        return merge_trimmed(name, base, experts, trim, row)
    if isinstance(method, Average | Slerp):
        row = shares(row[None], method.name)[0]
    plain = isinstance(method, Linear) or (
        isinstance(method, TensorTransform) and method.changes_nothing
    )
    if plain or isinstance(method, Average | Slerp):
        if np.count_nonzero(row) == 1 and row.max() == 1:
            finite(base, name)  # a damaged base is named even where it does not count
            return finite(list(experts.values())[int(row.argmax())], name)
        if plain:
            return merge_added(name, base, experts, row)
        if isinstance(method, Slerp):
            whole = method.of == "weights"
            row = method.factors(gram(name, base, experts, whole=whole), row)
            if not whole:
                return merge_added(name, base, experts, row)
        return merge_summed(name, experts, row)
    if isinstance(method, ModelStock):
        step = step_of(gram(name, base, experts, whole=False))
        return merge_added(name, base, experts, row * step)
    assert isinstance(method, TensorTransform)
    called = name.removeprefix(_body_prefix(base.folder)) if hasattr(method, "seed") else name
    if isinstance(method, DroppingTransform):
        return merge_dropped(name, base, experts, method, row, called=called)
    models = list(experts.values())
    merged = method.total(
        lambda k: difference(name, base, models[k]),
        row.tolist(),
        name=called,
        experts=tuple(experts),
    )
    return add_base_(merged, name, base)


def _write_companions(recipe: MergeRecipe, source: Path, folder: Path) -> None:
    copy_companions(source, folder)
    for file in _COPIED:
        if (source / file).exists():
            text = (source / file).read_text(encoding="utf-8")
            if file == "config.json" and recipe.dtype != "same":
                config = json.loads(text)
                config["torch_dtype" if "torch_dtype" in config else "dtype"] = recipe.dtype
                text = json.dumps(config, indent=2) + "\n"
            (folder / file).write_text(text, encoding="utf-8")
    record = recipe.model_dump(exclude={"folder"})
    (folder / "merge.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(recipe_card(recipe), encoding="utf-8")


def recipe_card(recipe: MergeRecipe, *, adapter: str | None = None) -> str:
    """The model card of a merge by a recipe; `adapter` says how the factors of an adapter came."""
    library = "transformers" if adapter is None else "peft"
    lines = ["---", f"library_name: {library}", "tags: [merge, moofusion]", "---", ""]
    lines += [f"# A merge of {', '.join(recipe.experts)}", ""]
    lines += [f"Made with moofusion by {recipe.method.sentence}.", ""]
    lines += [] if adapter is None else [f"A LoRA adapter for the base. {adapter}", ""]
    return "\n".join([*lines, "```toml", recipe.to_toml().rstrip(), "```", ""])
