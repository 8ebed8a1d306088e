"""Folders that appear complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moofusion.errors import RunError

__all__ = ["add_companions", "copy_companions", "new_folder"]

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


@contextmanager
def new_folder(to: Path, *, mark: str, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `to` that is renamed to it when all went well.

    An error, or a kill, leaves nothing behind under the name `to`.

    Args:
        to: The folder to make.
        mark: File by which an earlier one is known; other folders are never replaced.
        force: Replace an earlier one.

    Raises:
        RunError: `to` exists, or cannot be written.

    Example:
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with new_folder(Path(place) / "out", mark="merge.json") as folder:
        ...         _ = (folder / "merge.json").write_text("{}")
        ...     sorted(path.name for path in Path(place).iterdir())
        ['out']
    """
    if to.exists() and not force:
        raise RunError(f"{to} exists already; --force replaces it, or choose another folder")
    if to.exists() and not (to / mark).exists():
        raise RunError(
            f"{to} is not an export of moofusion, so it is not replaced; remove it first"
        )
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{to.name}-", dir=to.parent))
    except OSError as error:
        raise RunError(f"{to} cannot be written: {error}") from error
    try:
        yield temporary
        _share(temporary)
        _swap(temporary, to)
    except OSError as error:
        raise RunError(f"{to} cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def add_companions(
    folder: Path, *, sources: Iterable[Path | None], card: str, recipe: Mapping[str, Any]
) -> None:
    """What stands beside exported weights: model card, recipe, tokenizer or processor.

    Args:
        folder: That of the weights.
        sources: Folders that may have a tokenizer; that of the first that has one is copied, since
            published experts often leave it to their base.
        card: Written as README.md.
        recipe: Written as ``merge.json``.
    """
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "merge.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    for source in sources:
        if source is not None and copy_companions(source, folder):
            break


def copy_companions(source: Path, folder: Path) -> int:
    """Copy tokenizer and processor files, and say how many there were."""
    files = {file for pattern in _COMPANIONS for file in source.glob(pattern) if file.is_file()}
    for file in files:
        shutil.copy2(file, folder / file.name)
    return len(files)


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
