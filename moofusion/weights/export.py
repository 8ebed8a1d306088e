"""Writing a merged model as an ordinary checkpoint, complete or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moofusion.errors import UnknownNameError
from moofusion.weights.folders import add_companions, new_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from moofusion.weights.pool import LoadedPool

__all__ = ["DTYPES", "Exported", "export_checkpoint"]

#: Formats in which weights are written.
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Exported:
    """A checkpoint that was written.

    Attributes:
        folder: Where it is.
        head: Module whose head it carries (``"base"`` where heads are part of the merge).
        other_heads: Heads stored beside it, one folder each below ``heads/``.
    """

    folder: Path
    head: str
    other_heads: tuple[str, ...]


def export_checkpoint(
    pool: LoadedPool,
    weights: Tensor,
    *,
    to: Path,
    head: str,
    card: str,
    recipe: Mapping[str, Any],
    dtype: str = "float32",
    force: bool = False,
) -> Exported:
    """Write merged weights with `save_pretrained`, tokenizer or processor, and a model card.

    Everything is written to a temporary folder beside `to`, which is renamed at the end: an
    interrupted export leaves nothing behind.

    Args:
        pool: The pool the weights were merged from.
        weights: Flat merged weights, shape ``(D,)``.
        to: Folder to write.
        head: Module of the pool whose head the checkpoint carries. The other heads go to
            ``heads/NAME``, a few kilobytes each.
        card: Model card, written as README.md.
        recipe: Written as ``merge.json``.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        force: Replace an existing folder.

    Raises:
        UnknownNameError: No module of that name.
        RunError: `to` exists, or cannot be written.
    """
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    modules = pool.model.modules
    if head not in modules:
        raise UnknownNameError("head", head, modules)
    with new_folder(to, mark="merge.json", force=force) as folder:
        pool.model.weights.copy_(weights)
        _save(modules[head], folder, dtype)
        others = _save_heads(pool, head, folder / "heads", dtype)
        sources = pool.folders.get(head), pool.folders.get("base")
        add_companions(folder, sources=sources, card=card, recipe=recipe)
    return Exported(to, head, tuple(others))


def _save(module: Any, folder: Path, dtype: str) -> None:
    from moofusion.weights.sources import quiet_transformers

    state = _detached(module, dtype)
    if hasattr(module, "save_pretrained"):
        with quiet_transformers():
            module.save_pretrained(folder, state_dict=state)
        # It names the precision of the module in memory, not the one that was written.
        _save_config(module.config, folder, dtype)
    else:
        from safetensors.torch import save_file

        distinct = {id(value): key for key, value in reversed(state.items())}
        save_file({key: state[key] for key in distinct.values()}, folder / "model.safetensors")


def _save_config(config: Any, folder: Path, dtype: str) -> None:
    before, config.dtype = config.dtype, dtype
    config.save_pretrained(folder)
    config.dtype = before


def _detached(module: nn.Module, dtype: str) -> dict[str, Tensor]:
    """State dict of copies; what is tied stays one tensor."""
    import torch

    kind = getattr(torch, dtype)
    copies: dict[int, Tensor] = {}
    result = {}
    for key, value in module.state_dict(keep_vars=True).items():
        if id(value) not in copies:
            plain = value.detach().cpu().clone().contiguous()
            copies[id(value)] = plain.to(kind) if plain.is_floating_point() else plain
        result[key] = copies[id(value)]
    return result


def _save_heads(pool: LoadedPool, head: str, folder: Path, dtype: str) -> list[str]:
    """Store what the other modules have beside the merged weights, with their configuration."""
    from safetensors.torch import save_file

    written = []
    for name, module in pool.model.modules.items():
        own = pool.model.head_names(module)
        if name in (head, "base") or not own:
            continue
        state = _detached(module, dtype)
        (folder / name).mkdir(parents=True)
        save_file({key: state[key] for key in own}, folder / name / "head.safetensors")
        config: Any = getattr(module, "config", None)
        if config is not None:
            _save_config(config, folder / name, dtype)
        written.append(name)
    return written
