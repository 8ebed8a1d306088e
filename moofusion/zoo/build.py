"""Builds an offline problem from raw data: base, experts, splits, notice and manifest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from moofusion.errors import ConfigurationError
from moofusion.zoo import checkpoints, training
from moofusion.zoo.data import RawData, read_all
from moofusion.zoo.folders import cache_folder, check_name
from moofusion.zoo.manifest import Table, print_tables, write_manifest
from moofusion.zoo.notice import notice
from moofusion.zoo.splits import TaskData
from moofusion.zoo.vision import ROTATIONS, Recipe, recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import ViTForImageClassification


def build_zoo(
    name: str,
    *,
    data: str | Path,
    out: str | Path | None = None,
    seed: int | None = None,
    threads: int | None = None,
    progress: bool = True,
    steps_scale: float = 1.0,
    force: bool = False,
) -> Path:
    """Train the base and the experts of an offline problem and write everything it needs.

    An interrupted build goes on after its last finished model when it is started again with the
    same arguments and data.

    Args:
        name: ``vision4`` or ``vision5``.
        data: directory of the raw data (see `moofusion.zoo.readers`) or ``hub``; both
            problems need all four data sets, as CIFAR-10 photographs pretrain the base.
        out: folder to create; the user's cache by default, where `zoo_folder` finds it.
        seed: replaces the recipe's seed.
        threads: CPU threads for torch; torch's own choice by default.
        progress: show progress bars and the final table.
        steps_scale: multiplies every number of training steps (small values for a trial).
        force: replace `out` if it exists.

    Returns:
        The folder: ``models/``, ``data/``, ``manifest.json``, ``NOTICE.md``.

    Raises:
        UnknownNameError: there is no problem `name`.
        ConfigurationError: `out` exists, or an option cannot be used.
        DataError: raw data is missing or damaged.
    """
    check_name(name)
    target = cache_folder(name) if out is None else Path(out).expanduser()
    if target.exists() and not force:
        raise ConfigurationError(f"{target} exists; use force (--force) to replace it")
    if not steps_scale > 0:
        raise ConfigurationError(f"steps_scale must be above 0, got {steps_scale}")
    plan = _scaled(recipe(name), seed=seed, steps_scale=steps_scale)
    raw = read_all(plan, data)
    work = _workplace(target)
    with _threads(threads), _bars(progress) as bar:
        _build_base(work, plan, raw, bar)
        for index, task in enumerate(plan.tasks):
            _build_expert(work, plan, raw.tasks[task], plan.seed + 1 + index, bar)
        accuracy = _measure(work, raw.tasks)
    for key, task_data in raw.tasks.items():
        task_data.save(work / "data" / f"{key}.npz")
    (work / "NOTICE.md").write_text(notice(plan.tasks), encoding="utf-8")
    write_manifest(work, name, plan, raw, accuracy)
    if target.exists():
        shutil.rmtree(target)
    work.rename(target)
    if progress:
        print_tables(name, accuracy)
    return target


def _scaled(plan: Recipe, *, seed: int | None, steps_scale: float) -> Recipe:
    def scale(steps: int) -> int:
        return max(2, round(steps * steps_scale))

    return replace(
        plan,
        seed=plan.seed if seed is None else seed,
        pretraining=replace(plan.pretraining, steps=scale(plan.pretraining.steps)),
        experts={k: replace(v, steps=scale(v.steps)) for k, v in plan.experts.items()},
    )


def _workplace(target: Path) -> Path:
    """The temporary sibling of `target`, where finished stages of an earlier build may lie."""
    work = target.with_name(f".{target.name}.building")
    (work / "models").mkdir(parents=True, exist_ok=True)
    return work


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Bar = Callable[[str, int], Callable[[], object]]


@contextlib.contextmanager
def _bars(show: bool) -> Iterator[Bar]:
    """Yield a function (title, steps) -> function to call after each step."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        *Progress.get_default_columns()[:-1],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not show,
    ) as bars:

        def bar(title: str, steps: int) -> Callable[[], object]:
            task = bars.add_task(title, total=steps)
            return lambda: bars.advance(task)

        yield bar


def _build_base(work: Path, plan: Recipe, raw: RawData, bar: Bar) -> None:
    options = plan.pretraining
    images, labels, names = raw.sketches
    photographs = round(plan.photograph_share * options.batch_size)
    key = _key(
        [plan.architecture, options, photographs, names, plan.seed],
        [images, labels, raw.photographs],
    )
    if _finished(work, "base", key):
        return
    started = time.perf_counter()
    draw = training.with_rotations(
        training.sampler(images, labels, batch_size=options.batch_size - photographs),
        training.sampler(raw.photographs, None, batch_size=photographs),
        first_label=len(names),
    )
    model = training.new_model(plan.architecture, (*names, *ROTATIONS), seed=plan.seed)
    advance = bar("base", options.steps)
    loss = training.train(model, draw, options, seed=plan.seed, advance=advance)
    seconds = time.perf_counter() - started
    _finish(work, "base", model, {"key": key, "loss": loss, "seconds": seconds})


def _build_expert(work: Path, plan: Recipe, task: TaskData, seed: int, bar: Bar) -> None:
    options = plan.experts[task.name]
    origin = checkpoints.sha256(work / "models" / "base" / "model.safetensors")
    key = _key([origin, options, plan.probe_steps, plan.head, seed, task.classes], task.pool)
    if _finished(work, task.name, key):
        return
    started = time.perf_counter()
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
    seconds = time.perf_counter() - started
    facts = {"key": key, "linear_probe": linear, "loss": loss, "seconds": seconds}
    _finish(work, task.name, model, facts)


def _key(options: Sequence[object], arrays: Iterable[NDArray[Any]]) -> str:
    """Digest of everything a stage depends on: a changed stage is trained again."""
    digest = hashlib.sha256(repr(options).encode())
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def _finished(work: Path, stage: str, key: str) -> bool:
    file = work / "stages" / f"{stage}.json"
    folder = work / "models" / stage
    if folder.exists() and file.exists() and json.loads(file.read_text())["key"] == key:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _finish(
    work: Path, stage: str, model: ViTForImageClassification, facts: dict[str, Any]
) -> None:
    file = work / "stages" / f"{stage}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(facts), encoding="utf-8")
    checkpoints.save_checkpoint(model, work / "models" / stage)


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
