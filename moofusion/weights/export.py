"""Writing a merged model as an ordinary checkpoint, complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moofusion.errors import RunError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from moofusion.weights.pool import LoadedPool

__all__ = ["Exported", "export_checkpoint"]

_DTYPES = ("float32", "float16", "bfloat16")
# What a checkpoint folder may hold beside its weights, for tokenizers and processors.
_COMPANIONS = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
)


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
    if dtype not in _DTYPES:
        raise UnknownNameError("dtype", dtype, _DTYPES)
    modules = pool.model.modules
    if head not in modules:
        raise UnknownNameError("head", head, modules)
    if to.exists() and not force:
        raise RunError(f"{to} exists already; --force replaces it, or choose another folder")
    if to.exists() and not (to / "merge.json").exists():
        raise RunError(
            f"{to} is not an export of moofusion, so it is not replaced; remove it first"
        )
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{to.name}-", dir=to.parent))
    except OSError as error:
        raise RunError(f"{to} cannot be written: {error}") from error
    try:
        pool.model.weights.copy_(weights)
        _save(modules[head], temporary, dtype)
        others = _save_heads(pool, head, temporary / "heads", dtype)
        _copy_companions(pool.folders.get(head) or pool.folders.get("base"), temporary)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        (temporary / "merge.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        _share(temporary)
        _swap(temporary, to)
    except OSError as error:
        raise RunError(f"{to} cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(to, head, tuple(others))


def _share(folder: Path) -> None:
    """Give everything the permissions of ordinary files: temporary ones are their owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _swap(new: Path, place: Path) -> None:
    """Rename `new` to `place`; what was there goes only when the new one is in its place."""
    if not place.exists():
        new.rename(place)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent)) / place.name
    place.rename(old)
    try:
        new.rename(place)
    except BaseException:
        old.rename(place)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


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


def _copy_companions(source: Path | None, folder: Path) -> None:
    for pattern in _COMPANIONS if source is not None else ():
        assert source is not None
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copy2(file, folder / file.name)
