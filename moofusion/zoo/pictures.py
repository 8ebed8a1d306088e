"""Builds the vision problems: a base of sketches and photographs, an expert for each task."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from moofusion.zoo import checkpoints, training
from moofusion.zoo.data import RawData
from moofusion.zoo.manifest import Table
from moofusion.zoo.notice import notice
from moofusion.zoo.splits import TaskData
from moofusion.zoo.stages import Bar, Stage, stage_key
from moofusion.zoo.vision import ROTATIONS, Recipe


def build_pictures(
    work: Path, plan: Recipe, raw: RawData, bar: Bar
) -> tuple[dict[str, Any], dict[str, Table]]:
    """Write ``models/``, ``data/`` and ``NOTICE.md`` into `work`.

    Args:
        work: the folder of the build.
        plan: the recipe.
        raw: the data.
        bar: see `moofusion.zoo.stages.bars`.

    Returns:
        What the manifest says of it, and accuracies by split, model and task.
    """
    _build_base(work, plan, raw, bar)
    for index, task in enumerate(plan.tasks):
        _build_expert(work, plan, raw.tasks[task], plan.seed + 1 + index, bar)
    for key, task_data in raw.tasks.items():
        task_data.save(work / "data" / f"{key}.npz")
    (work / "NOTICE.md").write_text(notice(plan.tasks), encoding="utf-8")
    base = checkpoints.load_checkpoint(work / "models" / "base")
    facts = {
        "parameters": {
            "body": sum(p.numel() for p in base.vit.parameters()),
            "base": sum(p.numel() for p in base.parameters()),
        },
        "splits": {
            task: {split: len(labels) for split, (_, labels) in data.splits.items()}
            for task, data in raw.tasks.items()
        },
        "pool": {task: len(data.pool[1]) for task, data in raw.tasks.items()},
        "pretraining": {
            "sketches": len(raw.sketches[1]),
            "sketch_classes": len(raw.sketches[2]),
            "photographs": len(raw.photographs),
        },
        "duplicates_dropped": {task: data.dropped for task, data in raw.tasks.items()},
        "recipe": asdict(plan),
    }
    return facts, _measure(work, raw.tasks)


def _build_base(work: Path, plan: Recipe, raw: RawData, bar: Bar) -> None:
    options = plan.pretraining
    images, labels, names = raw.sketches
    photographs = round(plan.photograph_share * options.batch_size)
    key = stage_key(
        [plan.architecture, options, photographs, names, plan.seed],
        [images, labels, raw.photographs],
    )
    stage = Stage(work, "base", key)
    if stage.finished():
        return
    draw = training.with_rotations(
        training.sampler(images, labels, batch_size=options.batch_size - photographs),
        training.sampler(raw.photographs, None, batch_size=photographs),
        first_label=len(names),
    )
    model = training.new_model(plan.architecture, (*names, *ROTATIONS), seed=plan.seed)
    advance = bar("base", options.steps)
    loss = training.train(model, draw, options, seed=plan.seed, advance=advance)
    stage.finish(model, checkpoints.save_preprocessor, loss=loss)


def _build_expert(work: Path, plan: Recipe, task: TaskData, seed: int, bar: Bar) -> None:
    options = plan.experts[task.name]
    origin = checkpoints.sha256(work / "models" / "base" / "model.safetensors")
    key = stage_key([origin, options, plan.probe_steps, plan.head, seed, task.classes], task.pool)
    stage = Stage(work, task.name, key)
    if stage.finished():
        return
    base = checkpoints.load_checkpoint(work / "models" / "base")
    head = training.probe(base, *task.pool, classes=len(task.classes), steps=plan.probe_steps)
    model = training.new_model(plan.architecture, task.classes, seed=seed)
    model.vit.load_state_dict(base.vit.state_dict())
    fresh, model.classifier = model.classifier, head
    linear = {split: training.accuracy(model, *task.splits[split]) for split in _MEASURED}
    if plan.head == "fresh":
        model.classifier = fresh
    draw = training.sampler(*task.pool, batch_size=options.batch_size)
    advance = bar(task.name, options.steps)
    loss = training.train(model, draw, options, seed=seed, advance=advance)
    stage.finish(model, checkpoints.save_preprocessor, linear_probe=linear, loss=loss)


_MEASURED = ("search", "test")


def _measure(work: Path, tasks: dict[str, TaskData]) -> dict[str, Table]:
    """Accuracy of base, experts and controls on every task, from the files just written."""
    heads = {task: checkpoints.load_checkpoint(work / "models" / task) for task in tasks}
    base = checkpoints.load_checkpoint(work / "models" / "base").vit.state_dict()
    experts = {
        task: {key: tensor.clone() for key, tensor in head.vit.state_dict().items()}
        for task, head in heads.items()
    }
    bodies = checkpoints.controls(base, experts)
    return {
        split: training.matrix(
            bodies, heads, {task: data.splits[split] for task, data in tasks.items()}
        )
        for split in _MEASURED
    }
