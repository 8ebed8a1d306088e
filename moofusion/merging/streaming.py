"""Merging checkpoints tensor by tensor, from disk to disk: models that do not fit into memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moofusion.errors import ConfigurationError, PoolError
from moofusion.merging.methods import Average, Linear, MergeMethod, Slerp, TensorTransform
from moofusion.merging.methods.base import shares
from moofusion.merging.recipe import MergeRecipe
from moofusion.weights.folders import copy_companions, new_folder
from moofusion.weights.layout import ParameterLayout
from moofusion.weights.shards import Checkpoint, ShardWriter, format_of
from moofusion.weights.sources import find_folder
from moofusion.weights.vectors import TaskVectors

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["merge_checkpoints"]

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
    four times the largest tensor in float32 for ``linear`` and ``average``, whatever the number of
    experts; other methods hold the tensor of all K experts and their work on it (``ties`` of two:
    fifteen times). Tensors that are no floats (buffers of positions) come from
    the base; configuration, tokenizer and processor too. The folder appears when it is complete.

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
    method = recipe.method
    _check_streams(method)
    experts = {name: _open(recipe, name) for name in recipe.experts}
    base = _open(recipe, "base") if recipe.base is not None else next(iter(experts.values()))
    names = _common_names(base, experts)
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
                writer.write(name, _merged(name, base, experts, method, recipe.row(name)))
        _write_companions(recipe, base.folder, folder)
        if progress is not None:
            progress(len(names), len(names))
    return to


def _check_streams(method: MergeMethod) -> None:
    if isinstance(method, Linear | Average | Slerp):
        return
    if isinstance(method, TensorTransform) and getattr(method, "scope", "tensor") == "tensor":
        return
    hint = (
        "set scope = 'tensor', or merge in memory"
        if isinstance(method, TensorTransform)
        else "search a problem with it and export the result"
    )
    raise ConfigurationError(
        f"merge method {method.name!r} needs more than one tensor at a time, so it cannot merge "
        f"checkpoints from disk to disk; {hint}"
    )


def _open(recipe: MergeRecipe, name: str) -> Checkpoint:
    role = "base" if name == "base" else f"expert {name!r}"
    return Checkpoint(find_folder(recipe.source(name), role=role), role=role)


def _common_names(base: Checkpoint, experts: dict[str, Checkpoint]) -> tuple[str, ...]:
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


def _tied_output(folder: Path) -> str | None:
    """Name of the output layer if the configuration ties it to the embedding."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # GPT-2 and others tie by default and do not write it down.
    tied = config.get("tie_word_embeddings", config.get("model_type") in ("gpt2", "t5", "bart"))
    return "lm_head.weight" if tied else None


def _body_prefix(folder: Path) -> str:
    """Prefix of the body's tensors, which models in memory are laid out without.

    Seeded masks depend on names, and are to be those of a search in memory.
    """
    import transformers

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model: Any = getattr(transformers, config["architectures"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""  # a checkpoint of another library
    return f"{model.base_model_prefix}."


def _merged(
    name: str,
    base: Checkpoint,
    experts: dict[str, Checkpoint],
    method: MergeMethod,
    row: NDArray[np.float64],
) -> Tensor:
    import torch

    if not base.is_float(name):
        return base.read(name)
    if isinstance(method, Average):
        row = shares(row[None], method.name)[0]
    first = _finite(base, name)
    if isinstance(method, Linear | Average):
        if np.count_nonzero(row) == 1 and row.max() == 1:
            return _finite(list(experts.values())[int(row.argmax())], name)
        merged = first.clone()
        for weight, expert in zip(row, experts.values(), strict=True):
            if weight:
                merged.add_(_finite(expert, name) - first, alpha=float(weight))
        return merged
    short = name.removeprefix(_body_prefix(base.folder)) if hasattr(method, "seed") else name
    layout = ParameterLayout({short: base.shape(name)})
    place = layout.entries[0].slice
    flat = torch.zeros(layout.size)
    flat[place] = first.flatten()
    deltas = torch.zeros(len(experts), layout.size)
    residue = []
    for delta, expert in zip(deltas, experts.values(), strict=True):
        own = torch.zeros(layout.size)
        own[place] = _finite(expert, name).flatten()
        residue.append(TaskVectors.subtract(flat, own, delta))
    vectors = TaskVectors(layout, tuple(experts), flat, deltas, tuple(residue))
    merge = method.bind(vectors, layout.partition("model"), static=np.zeros(len(row)))
    out = merge(row[None], out=torch.empty(layout.size))
    return out[place].view(base.shape(name))


def _finite(model: Checkpoint, name: str) -> Tensor:
    import torch

    tensor = model.read(name).to(torch.float32)
    if not bool(tensor.isfinite().all()):
        raise PoolError(
            f"{model.role}: tensor {name} holds NaN or infinite values; a merge would spread them, "
            "so fix or leave out this model"
        )
    return tensor


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
    (folder / "README.md").write_text(_card(recipe), encoding="utf-8")


def _card(recipe: MergeRecipe) -> str:
    lines = ["---", "library_name: transformers", "tags: [merge, moofusion]", "---", ""]
    lines += [f"# A merge of {', '.join(recipe.experts)}", ""]
    lines += [f"Made with moofusion by {recipe.method.sentence}.", "", "```toml"]
    return "\n".join([*lines, recipe.to_toml().rstrip(), "```", ""])
