"""Any merge of a problem as an ordinary checkpoint, with its card and recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.problems.merge_problem import MergeProblem

if TYPE_CHECKING:
    from torch import nn

    from moofusion.merging import MergeMethod
    from moofusion.weights.export import Exported
    from moofusion.weights.layout import ParameterLayout, Partition

__all__ = ["export_adapter", "export_merge", "merge_sources"]

Array = NDArray[np.float64]


def export_merge(
    problem: MergeProblem,
    L: Array,
    *,
    x: Array | None = None,
    task: str,
    metrics: Mapping[str, Mapping[str, float]],
    chosen: str,
    settings: Mapping[str, Any],
    to: Path,
    dtype: str,
    force: bool,
    found: str | None = None,
    adapter: str | None = None,
    rank: int | None = None,
) -> Exported:
    """Merge once more and write the checkpoint with its card and recipe.

    Args:
        problem: The problem whose models are merged.
        L: Coefficients, shape ``(G, K)``.
        x: Their decision vector, where they have one.
        task: Task whose head the checkpoint carries.
        metrics: For each split the measured metric of every task.
        chosen: How this model was chosen, in words.
        settings: What was run.
        to: Folder to write.
        dtype: Precision of the weights.
        force: Replace an existing folder.
        found: How the coefficients were found, in words; by default from `settings`.
        adapter: Write a LoRA adapter instead of the whole model: `how` of :func:`export_adapter`.
        rank: Its rank.

    Raises:
        UnknownNameError: There is no task of that name.
        ConfigurationError: A rank without `adapter`.
        RunError: `to` exists, or cannot be written.
    """
    from moofusion.weights.adapter_export import check_combination, how_made
    from moofusion.weights.card import model_card
    from moofusion.weights.export import Exported, export_checkpoint

    if adapter is not None:
        check_combination(adapter, rank)
    elif rank is not None:
        raise ConfigurationError(f"rank={rank}: only an adapter has one")
    evaluator, space = problem.evaluator, problem.space
    head, owner = _carrier(problem, task)
    parameters = {} if x is None else space.parameters(x[None])[0]
    method = evaluator.method.at(parameters)
    modules = evaluator.pool.model.modules
    heads = [n for n, m in modules.items() if n != "base" and evaluator.pool.model.head_names(m)]
    sources = merge_sources(problem)
    card = model_card(
        base=sources["base"],
        experts={name: sources[name] for name in space.experts},
        method=method.sentence,
        groups=space.partition.names,
        coefficients=L,
        metrics=metrics,
        metric_names={t.name: t.objective.name for t in problem.tasks},
        chosen=chosen,
        head=task,
        other_heads=[name for name in heads if name != head and adapter is None],
        model_class=type(owner).__name__,
        pretrained=hasattr(owner, "save_pretrained"),
        dtype=dtype,
        settings=settings,
        found=found,
        adapter=None if adapter is None else how_made(adapter, rank),
    )
    recipe = {
        **_merge_recipe(problem, method, L),
        "space": repr(space),
        "decision_vector": None if x is None else x.tolist(),
        "metrics": metrics,
        "chosen": chosen,
        "head": task,
        "settings": {k: v for k, v in settings.items() if k not in ("spec", "result")},
    }
    if adapter is not None:
        export_adapter(
            problem,
            L,
            x=x,
            task=task,
            to=to,
            how=adapter,
            rank=rank,
            dtype=dtype,
            force=force,
            card=card,
            recipe=recipe,
        )
        return Exported(to, head, ())
    return export_checkpoint(
        evaluator.pool,
        evaluator.weights(L, parameters=parameters),
        to=to,
        head=head,
        card=card,
        recipe=recipe,
        dtype=dtype,
        force=force,
    )


def export_adapter(
    problem: MergeProblem,
    L: Array,
    *,
    x: Array | None = None,
    task: str,
    to: Path,
    how: str = "svd",
    rank: int | None = None,
    dtype: str = "float32",
    force: bool = False,
    card: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Path:
    """Write a merge of LoRA adapters as one adapter that ``peft.PeftModel`` loads.

    Args:
        problem: A problem whose experts are all adapters.
        L: Coefficients, shape ``(G, K)``.
        x: Their decision vector, where they have one.
        task: Task whose head the adapter carries.
        to: Folder to write.
        how: ``"svd"``: the merge by any method, compressed. ``"cat"``: factors one below the
            other, exact. ``"linear"``: factors added up, as peft does; another model than the one
            that was measured. The last two are for the merge method ``linear``.
        rank: Rank for ``"svd"``; by default the ranks of the adapters added up.
        dtype: Precision of the factors.
        force: Replace an earlier export.
        card: Written as README.md; by default a short one.
        recipe: Written as ``merge.json``; by default method, sources, groups and coefficients.

    Raises:
        ConfigurationError: `how` does not suit the merge method or the ranks.
        PoolError: The pool holds full models, or the merge changes more than the adapted layers.
        UnknownNameError: There is no such task, way or dtype.
        RunError: `to` exists, or cannot be written.
    """
    from moofusion.weights.adapter_export import check_combination, how_made, save_adapter

    evaluator, space = problem.evaluator, problem.space
    head, _ = _carrier(problem, task)
    parameters = {} if x is None else space.parameters(x[None])[0]
    method = evaluator.method.at(parameters)
    check_combination(how, rank, method.name)
    pool = evaluator.pool
    rows = {
        entry.name: space.static if group < 0 else L[group]
        for entry, group in zip(pool.layout.entries, space.partition.groups, strict=True)
    }
    if card is None:
        card = (
            "---\nlibrary_name: peft\ntags: [merge, moofusion]\n---\n\n"
            f"# A merge of {', '.join(space.experts)}\n\n"
            f"LoRA adapters merged with moofusion by {method.sentence}. {how_made(how, rank)} The "
            "coefficients are in `merge.json`.\n"
        )
    table = _merge_recipe(problem, method, L) if recipe is None else recipe
    return save_adapter(
        pool,
        evaluator.weights(L, parameters=parameters),
        to=to,
        head=head,
        how=how,
        rank=rank,
        coefficients=lambda name: rows[name].tolist(),
        card=card,
        recipe={**table, "adapter": {"how": how, "rank": rank}},
        dtype=dtype,
        force=force,
    )


def _carrier(problem: MergeProblem, task: str) -> tuple[str, nn.Module]:
    """Module with the head of that task, and its name in the pool."""
    if task not in problem.task_names:
        raise UnknownNameError("task", task, problem.task_names)
    evaluator = problem.evaluator
    owner = evaluator.module(problem.tasks[problem.task_names.index(task)])
    modules = evaluator.pool.model.modules
    return next(name for name, module in modules.items() if module is owner), owner


def _merge_recipe(problem: MergeProblem, method: MergeMethod, L: Array) -> dict[str, Any]:
    """What decides the weights: method, sources, groups and coefficients."""
    space = problem.evaluator.space
    return {
        **method.table,
        "sources": merge_sources(problem),
        "groups": list(space.partition.names),
        "members": _members(problem.evaluator.pool.layout, space.partition),
        "experts": list(space.experts),
        "coefficients": L.tolist(),
        "static": space.static.tolist() if space.partition.has_static else None,
    }


def _members(layout: ParameterLayout, partition: Partition) -> dict[str, list[str]]:
    """Tensors of each group; what is in none keeps the static coefficients."""
    members: dict[str, list[str]] = {name: [] for name in partition.names}
    for entry, group in zip(layout.entries, partition.groups, strict=True):
        if group >= 0:
            members[partition.names[group]].append(entry.name)
    return members


def merge_sources(problem: MergeProblem) -> dict[str, str]:
    """Where the models came from, as the user wrote it where that is known."""
    if problem.spec is not None:
        return {"base": problem.spec.pool.base, **problem.spec.pool.experts}
    folders = problem.evaluator.pool.folders
    return {name: str(folder or "a module in memory") for name, folder in folders.items()}
