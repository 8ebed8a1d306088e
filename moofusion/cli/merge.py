"""``moofusion merge``, ``import-recipe`` and ``export-recipe``: checkpoints by recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moofusion.cli.display import err, screen
from moofusion.cli.options import Form, How, Rank, adapter_options
from moofusion.errors import ConfigurationError, RunError

__all__ = ["export_recipe", "import_recipe", "merge"]

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def merge(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a .toml file.")],
    to: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
    form: Form = "model",
    how: How = None,
    rank: Rank = None,
    dtype: Annotated[
        str | None, typer.Option(help="same, float32, float16 or bfloat16; else the recipe's.")
    ] = None,
    shard_size: Annotated[str, typer.Option(help="Largest file: 500MB, 5GB.")] = "5GB",
    force: Annotated[bool, typer.Option(help="Replace an earlier merge.")] = False,
) -> None:
    """Merge checkpoints of any size by a recipe, tensor by tensor from disk to disk.

    Experts may be LoRA adapters; with --as adapter a merge of adapters is written as one.
    """
    from rich.progress import Progress

    from moofusion.merging.adapter_merge import merge_adapters
    from moofusion.merging.recipe import MergeRecipe, read_recipe
    from moofusion.merging.streaming import merge_checkpoints

    adapter = adapter_options(form, how, rank)
    found = read_recipe(recipe)
    if dtype is not None:
        if dtype not in ("same", "float32", "float16", "bfloat16"):
            raise ConfigurationError(
                f"--dtype {dtype!r}: expected same, float32, float16 or bfloat16"
            )
        found = MergeRecipe.model_validate(found.model_dump() | {"dtype": dtype})
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task(f"merging into {to}")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if adapter is None:
            size = _bytes(shard_size)
            merge_checkpoints(found, to, shard_bytes=size, force=force, progress=progress)
        else:
            merge_adapters(found, to, how=adapter, rank=rank, force=force, progress=progress)
    screen.print(f"wrote {to}", soft_wrap=True)


def import_recipe(
    config: Annotated[Path, typer.Argument(help="Configuration of mergekit, a .yaml file.")],
    to: Annotated[Path, typer.Option(help="Recipe to write, a .toml file.")],
    force: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Turn a configuration of mergekit into a recipe for `moofusion merge`."""
    from moofusion.merging.mergekit import read_mergekit

    _write(to, read_mergekit(config).moved(to.parent).to_toml(), force)


def export_recipe(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a .toml file.")],
    to: Annotated[Path, typer.Option(help="Configuration to write, a .yaml file.")],
    force: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Turn a recipe into a configuration of mergekit."""
    import yaml

    from moofusion.merging.mergekit import to_mergekit
    from moofusion.merging.recipe import read_recipe

    found = to_mergekit(read_recipe(recipe).moved(to.parent))
    _write(to, yaml.safe_dump(found, sort_keys=False), force)


def _write(path: Path, text: str, force: bool) -> None:
    if path.exists() and not force:
        raise RunError(f"{path} exists already; --force replaces it, or choose another name")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from error
    screen.print(f"wrote {path}", soft_wrap=True)


def _bytes(text: str) -> int:
    number, unit = text[:-2], text[-2:].upper()
    try:
        size = int(float(number) * _UNITS[unit])
    except (KeyError, ValueError):
        size = 0
    if size < 1:
        raise ConfigurationError(f"--shard-size {text!r}: expected a size such as 500MB or 5GB")
    return size
