"""Disjoint train, search and test splits of a task, balanced over classes and free of duplicates.

*Duplicate* means the same pixels. Of equal images one is kept, and it stays where it is most
needed: in test before search before train.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moofusion.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moofusion.zoo.readers import Images, Labels, Photographs
    from moofusion.zoo.vision import Splits

SPLITS = ("train", "search", "test")


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """One task: what is shipped (`splits`) and what its expert is trained on (`pool`).

    Attributes:
        name: the task.
        classes: names of the labels, in order.
        splits: train, search and test: images ``(N, 28, 28)`` uint8 and labels ``(N,)``.
        pool: images and labels for training: everything outside search and test.
        dropped: how many images were left out because they repeat another one.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[Images, Labels]]
    pool: tuple[Images, Labels]
    dropped: int

    def save(self, file: Path) -> None:
        """Write the three splits and the class names as compressed npz without pickles."""
        arrays: dict[str, NDArray[Any]] = {"classes": np.array(self.classes, dtype=np.str_)}
        for split, (images, labels) in self.splits.items():
            arrays[f"{split}_images"] = images
            arrays[f"{split}_labels"] = labels.astype(np.uint8)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, allow_pickle=False, **arrays)


def unseen(images: Images, seen: set[bytes]) -> NDArray[np.bool_]:
    """Mask of the images whose pixels are not in `seen`; adds them to `seen` as it goes."""
    keep = np.zeros(len(images), bool)
    for index, image in enumerate(images):
        content = image.tobytes()
        keep[index] = content not in seen
        seen.add(content)
    return keep


def split_photographs(name: str, raw: Photographs, *, sizes: Splits, seed: int) -> TaskData:
    """Search and train from the original train set, test from the original test set.

    Args:
        name: the task.
        raw: the whole data set.
        sizes: samples per split, the same number of each class.
        seed: which samples are drawn.

    Raises:
        DataError: there are too few images of a class.
    """
    rng = np.random.default_rng(seed)
    seen: set[bytes] = set()
    keep_test = unseen(raw.test_images, seen)
    keep_train = unseen(raw.train_images, seen)
    dropped = int((~keep_test).sum() + (~keep_train).sum())
    train_images, train_labels = raw.train_images[keep_train], raw.train_labels[keep_train]
    test_images, test_labels = raw.test_images[keep_test], raw.test_labels[keep_test]

    search, train, test = [], [], []
    counts = [size // len(raw.classes) for size in (sizes.search, sizes.train, sizes.test)]
    for label, class_name in enumerate(raw.classes):
        ours = rng.permutation(np.flatnonzero(train_labels == label))
        theirs = rng.permutation(np.flatnonzero(test_labels == label))
        if len(ours) < counts[0] + counts[1] or len(theirs) < counts[2]:
            raise DataError(
                f"{name}: class {class_name!r} has {len(ours)} training and {len(theirs)} test "
                f"images; {counts[0] + counts[1]} and {counts[2]} are needed"
            )
        search.append(ours[: counts[0]])
        train.append(ours[counts[0] : counts[0] + counts[1]])
        test.append(theirs[: counts[2]])
    chosen = {
        "train": (train_images, train_labels, rng.permutation(np.concatenate(train))),
        "search": (train_images, train_labels, rng.permutation(np.concatenate(search))),
        "test": (test_images, test_labels, rng.permutation(np.concatenate(test))),
    }
    pool = np.delete(np.arange(len(train_labels)), np.concatenate(search))
    return TaskData(
        name=name,
        classes=raw.classes,
        splits={split: (x[index], y[index]) for split, (x, y, index) in chosen.items()},
        pool=(train_images[pool], train_labels[pool]),
        dropped=dropped,
    )


def split_sketches(
    name: str, drawings: Mapping[str, Images], classes: tuple[str, ...], *, sizes: Splits
) -> TaskData:
    """The last drawings of each class are test, those before them search, the rest train.

    Raises:
        DataError: a class is missing or has too few drawings.
    """
    absent = [c for c in classes if c not in drawings]
    short = [c for c in classes if c not in absent and len(drawings[c]) < sizes.sketches]
    if absent or short:
        raise DataError(
            f"{name}: {sizes.sketches} drawings of each class are needed; "
            f"missing classes: {', '.join(absent) or 'none'}; "
            f"with fewer drawings: {', '.join(short) or 'none'}"
        )
    test = sizes.sketches - sizes.sketches_test
    search = test - sizes.sketches_search
    ranges = {"test": (test, sizes.sketches), "search": (search, test), "train": (0, search)}
    seen: set[bytes] = set()
    splits: dict[str, tuple[Images, Labels]] = {}
    dropped = 0
    for split, (start, stop) in ranges.items():
        images = np.concatenate([drawings[c][start:stop] for c in classes])
        labels = np.repeat(np.arange(len(classes), dtype=np.int64), stop - start)
        keep = unseen(images, seen)
        dropped += int((~keep).sum())
        splits[split] = images[keep], labels[keep]
    return TaskData(
        name=name,
        classes=classes,
        splits={split: splits[split] for split in SPLITS},
        pool=splits["train"],
        dropped=dropped,
    )


def other_sketches(
    drawings: Mapping[str, Images], tasks: Iterable[TaskData]
) -> tuple[Images, Labels, tuple[str, ...]]:
    """The drawings of all classes that no task uses, without those whose pixels a task has."""
    tasks = list(tasks)
    used = {name for task in tasks for name in task.classes}
    names = tuple(name for name in drawings if name not in used)
    if not names:
        raise DataError("quickdraw: no class is left to pretrain the base on")
    seen: set[bytes] = set()
    for task in tasks:
        for images, _ in task.splits.values():
            unseen(images, seen)
    images = np.concatenate([drawings[name] for name in names])
    labels = np.repeat(np.arange(len(names)), [len(drawings[name]) for name in names])
    keep = unseen(images, seen)
    return images[keep], labels[keep], names
