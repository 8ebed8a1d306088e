"""A fine-tuned model on disk: an ordinary checkpoint with all heads, a card and its record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moofusion.errors import RunError
from moofusion.problems.export import merge_sources
from moofusion.weights.export import Exported, export_checkpoint

if TYPE_CHECKING:
    from moofusion.problems import MergeProblem

__all__ = ["copy_checkpoint", "write_ray"]


def write_ray(
    problem: MergeProblem, to: Path, record: Mapping[str, Any], *, dtype: str
) -> Exported:
    """Write the flat weights as they are now, with the head of the most preferred task.

    Args:
        problem: Whose pool holds the weights.
        to: Folder; an unfinished or older ray there is replaced.
        record: What is known of it (see :class:`moofusion.baselines.Ray`), for the card and
            ``merge.json``.
        dtype: Precision of the checkpoint.
    """
    evaluator = problem.evaluator
    pool = evaluator.pool
    preference: dict[str, float] = record["preference"]
    task = max(preference, key=lambda name: preference[name])
    owner = evaluator.module(problem.tasks[problem.task_names.index(task)])
    head = next(name for name, module in pool.model.modules.items() if module is owner)
    recipe = {"method": "fine-tuning", "sources": merge_sources(problem), "head": task, **record}
    return export_checkpoint(
        pool,
        pool.model.weights.clone(),
        to=to,
        head=head,
        card=_card(record, task),
        recipe=recipe,
        dtype=dtype,
        force=True,
    )


def copy_checkpoint(
    source: Path, to: Path, *, head: str | None, dtype: str, force: bool
) -> Exported:
    """Copy a ray to another folder, as it is.

    Args:
        source: A folder that :func:`write_ray` wrote.
        to: Folder to write; it must not exist, unless `force` and it is such a checkpoint.
        head: Task whose head is wanted; None for the one it has.
        dtype: Precision that is wanted.
        force: Replace an existing checkpoint.

    Raises:
        RunError: The ray is not there, has another head or precision, or `to` exists.
    """
    try:
        record = json.loads((source / "merge.json").read_text(encoding="utf-8"))
        has = record["head"], record["settings"]["dtype"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"the chosen model is the fine-tuned checkpoint {source}, which cannot be read: {error}"
        ) from error
    for what, wanted, mine in (("head", head, has[0]), ("precision", dtype, has[1])):
        if wanted not in (None, mine):
            raise RunError(
                f"the chosen model is the fine-tuned checkpoint {source} with {what} {mine}, not "
                f"{wanted}; it is copied as it is: ask for {mine}, or take its parts from there"
            )
    if to.exists():
        if not force:
            raise RunError(f"{to} exists already; --force replaces it, or choose another folder")
        if not (to / "merge.json").is_file() or to.resolve() == source.resolve():
            raise RunError(f"{to} is no export that could be replaced; choose another folder")
        shutil.rmtree(to)
    try:
        shutil.copytree(source, to)
    except OSError as error:
        raise RunError(f"{to} cannot be written: {error}") from error
    heads = to / "heads"
    others = sorted(p.name for p in heads.iterdir()) if heads.is_dir() else []
    return Exported(to, has[0], tuple(others))


def _card(record: Mapping[str, Any], task: str) -> str:
    settings = record["settings"]
    wish = ", ".join(f"{name}={share:.6g}" for name, share in record["preference"].items())
    splits = list(record["metrics"])
    lines = [
        "---",
        "library_name: transformers",
        "tags: [moofusion, multi-task]",
        "---",
        "",
        f"# {settings['problem']}: the whole network, fine-tuned for one preference",
        "",
        f"- preference: {wish}",
        f"- method: {settings['method']}, {settings['steps']} steps of Adam, lr {settings['lr']:g},"
        f" {settings['batch_size']} samples per task and step, seed {settings['seed']}",
        f"- training cost: {record['cost']:.0f} units (3 per sample), {record['seconds']:.0f} s",
        f"- head: {task}; the others are in `heads/`",
        "",
        "| task | " + " | ".join(splits) + " |",
        "|---|" + "---|" * len(splits),
    ]
    lines += [
        f"| {name}, {metric} | "
        + " | ".join(f"{record['metrics'][s][name][metric]:.6g}" for s in splits)
        + " |"
        for name, metric in settings["objectives"].items()
    ]
    return "\n".join(lines) + "\n"
