"""Splits are disjoint, balanced, and free of repeated images."""

from __future__ import annotations

import numpy as np
import pytest

from moofusion.errors import DataError
from moofusion.zoo.readers import Photographs
from moofusion.zoo.splits import other_sketches, split_photographs, split_sketches
from moofusion.zoo.vision import Splits

SIZES = Splits(train=20, search=10, test=10, sketches=10, sketches_search=2, sketches_test=3)


def noise(count: int, *, seed: int) -> np.ndarray:
    """Random images that differ from one another."""
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28)).astype(np.uint8)


def contents(images: np.ndarray) -> set[bytes]:
    """The images as a set."""
    return {image.tobytes() for image in images}


def photographs() -> Photographs:
    """Ten classes, six training and three test images each."""
    labels = np.arange(60) % 10
    train, test = noise(60, seed=1), noise(30, seed=2)
    return Photographs(train, labels, test, labels[:30], tuple("abcdefghij"))


def test_photographs_are_split_evenly_and_without_overlap() -> None:
    data = split_photographs("x", photographs(), sizes=SIZES, seed=0)

    sizes = {split: np.bincount(labels).tolist() for split, (_, labels) in data.splits.items()}
    assert sizes == {"train": [2] * 10, "search": [1] * 10, "test": [1] * 10}
    sets = [contents(images) for images, _ in data.splits.values()]
    assert len(set.union(*sets)) == 40
    assert len(data.pool[1]) == 50
    assert not contents(data.pool[0]) & (sets[1] | sets[2])
    assert sets[0] <= contents(data.pool[0])


def test_the_seed_decides_the_split() -> None:
    one, same, other = (
        split_photographs("x", photographs(), sizes=SIZES, seed=seed).splits["search"][0]
        for seed in (0, 0, 1)
    )

    np.testing.assert_array_equal(one, same)
    assert contents(one) != contents(other)


def test_a_training_image_that_repeats_a_test_image_is_dropped() -> None:
    raw = photographs()
    raw.train_images[:2] = raw.test_images[0]

    data = split_photographs("x", raw, sizes=SIZES, seed=0)

    assert data.dropped == 2
    assert raw.test_images[0].tobytes() not in contents(data.pool[0])


def test_too_few_images_of_a_class_are_reported() -> None:
    with pytest.raises(DataError, match="class 'a' has 6 training and 3 test images; 3 and 5"):
        split_photographs("x", photographs(), sizes=Splits(train=20, search=10, test=50), seed=0)


def test_sketches_keep_their_order() -> None:
    drawings = {name: noise(10, seed=i) for i, name in enumerate(("ant", "bee", "cow"))}

    data = split_sketches("x", drawings, ("ant", "cow"), sizes=SIZES)

    np.testing.assert_array_equal(data.splits["test"][0][:3], drawings["ant"][7:])
    np.testing.assert_array_equal(data.splits["search"][0][2:], drawings["cow"][5:7])
    np.testing.assert_array_equal(data.splits["train"][0][:5], drawings["ant"][:5])
    assert data.classes == ("ant", "cow")


def test_missing_and_short_sketch_classes_are_named() -> None:
    drawings = {"ant": noise(10, seed=0), "cow": noise(4, seed=1)}

    with pytest.raises(DataError, match="missing classes: bee; with fewer drawings: cow"):
        split_sketches("x", drawings, ("ant", "bee", "cow"), sizes=SIZES)


def test_pretraining_sketches_repeat_nothing_of_the_tasks() -> None:
    drawings = {name: noise(10, seed=i) for i, name in enumerate(("ant", "bee", "cow"))}
    drawings["bee"][0] = drawings["ant"][9]
    task = split_sketches("x", drawings, ("ant",), sizes=SIZES)

    images, labels, names = other_sketches(drawings, [task])

    assert names == ("bee", "cow")
    assert np.bincount(labels).tolist() == [9, 10]
    assert not contents(images) & contents(drawings["ant"])
