"""Merges of LoRA adapters by a recipe, written as one adapter; the base is read, never loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from moofusion.merging.pieces import finite
from moofusion.merging.recipe import MergeRecipe
from moofusion.merging.streaming import StreamedMerge, recipe_card
from moofusion.weights.adapted import AdaptedCheckpoint
from moofusion.weights.adapter_export import (
    check_combination,
    combine,
    compressed,
    how_made,
    require_adapters,
    write_adapter,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["merge_adapters"]


def merge_adapters(
    recipe: MergeRecipe,
    to: str | Path,
    *,
    how: str = "svd",
    rank: int | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Merge the adapters of a recipe and write the result as an adapter for the base.

    Modules that the adapters saved whole (classifiers of one shape) are merged like every other
    tensor and saved whole again.

    Args:
        recipe: What to merge; all its experts are adapters. ``dtype = "same"`` is float32 here.
        to: Folder to write; it must not exist, unless `force`.
        how: As in :func:`moofusion.problems.export.export_adapter`.
        rank: Rank for ``"svd"``; by default the ranks of the adapters added up.
        force: Replace an earlier merge.
        progress: Called with the tensors done and their number.

    Returns:
        The folder.

    Raises:
        PoolError: An expert is a full model, cannot be read, or does not fit the base.
        ConfigurationError: `how` does not suit the merge method or the ranks.
        UnknownNameError: There is no such way.
        RunError: `to` exists, or cannot be written.
    """
    check_combination(how, rank, recipe.method.name)
    merge = StreamedMerge(recipe)
    adapted = {n: m for n, m in merge.experts.items() if isinstance(m, AdaptedCheckpoint)}
    require_adapters(name for name in merge.experts if name not in adapted)
    assert merge.module is not None
    first = next(iter(adapted.values()))
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    saved: dict[str, Tensor] = {}
    for done, name in enumerate(merge.names):
        if progress is not None:
            progress(done, len(merge.names))
        kept = next((m for m in adapted.values() if name in m.saved), None)
        if kept is not None:
            saved[kept.given[name]] = merge.tensor(name)
        own = {e: m for e, m in adapted.items() if name in m.factors}
        if not own:
            continue  # the experts have the base's tensor, which every method gives back
        full = next(iter(own.values())).layers[name]
        factors = [m.factors[name] for m in own.values()]
        if how == "svd":
            layer = merge.module.get_submodule(full.removesuffix(".weight"))
            delta = merge.tensor(name) - finite(merge.base, name)
            pairs[full] = compressed(delta, layer, factors, rank)
        else:
            row = dict(zip(recipe.experts, recipe.row(name).tolist(), strict=True))
            pairs[full] = combine(factors, [row[e] for e in own], how)
    if progress is not None:
        progress(len(merge.names), len(merge.names))
    like = next((m for m in adapted.values() if m.saved), first)
    return write_adapter(
        pairs,
        merge.module,
        to=Path(to),
        like=like.adapter,
        saved=saved,
        base=merge.base.folder,
        companions=[merge.base.folder],
        card=recipe_card(recipe, adapter=how_made(how, rank)),
        recipe=recipe.model_dump(exclude={"folder"}) | {"adapter": {"how": how, "rank": rank}},
        dtype="float32" if recipe.dtype == "same" else recipe.dtype,
        force=force,
    )
