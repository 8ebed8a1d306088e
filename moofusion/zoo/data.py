"""Reads and splits all the data that a build needs: the tasks' and the base's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moofusion.zoo.readers import read_photographs, read_sketches
from moofusion.zoo.splits import TaskData, other_sketches, split_photographs, split_sketches
from moofusion.zoo.vision import ANIMALS, OBJECTS, Recipe

if TYPE_CHECKING:
    from moofusion.zoo.readers import Images, Labels


@dataclass(frozen=True, kw_only=True)
class RawData:
    """Everything a build reads.

    Attributes:
        tasks: the problem's tasks.
        sketches: images, labels and class names that pretrain the base.
        photographs: images that pretrain the base, without labels.
    """

    tasks: dict[str, TaskData]
    sketches: tuple[Images, Labels, tuple[str, ...]]
    photographs: Images


def read_all(plan: Recipe, data: str | Path) -> RawData:
    """Read and split the data of every task, and what is left for the base."""
    drawings = read_sketches(data)
    tasks: dict[str, TaskData] = {}
    # CIFAR-10 is read even when it is no task: its photographs pretrain the base, except those
    # of its search split, so that the base of every problem is the same.
    for key in ("mnist", "fashion", "cifar10"):
        raw = read_photographs(key, data)
        tasks[key] = split_photographs(key, raw, sizes=plan.splits, seed=plan.seed)
    for key, classes in (("animals", ANIMALS), ("objects", OBJECTS)):
        tasks[key] = split_sketches(key, drawings, classes, sizes=plan.splits)
    sketches = other_sketches(drawings, [tasks["animals"], tasks["objects"]])
    photographs = tasks["cifar10"].pool[0]
    return RawData(
        tasks={task: tasks[task] for task in plan.tasks},
        sketches=sketches,
        photographs=photographs,
    )
