"""Raw data in every accepted format, made up and small."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moofusion.zoo.vision import ANIMALS, OBJECTS


def _idx(folder: Path, *, train: int, test: int, seed: int, gz: bool = False) -> None:
    """Write the four IDX files of a data set whose ten classes are bright columns."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        images[np.arange(count), :, labels * 2 + 3] = 255
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(
                n.to_bytes(4, "big") for n in array.shape
            )
            raw = head + array.tobytes()
            file = folder / f"{split}-{kind}-ubyte{'.gz' if gz else ''}"
            file.write_bytes(gzip.compress(raw) if gz else raw)


def _sketches(folder: Path, names: list[str], *, form: str, count: int = 100) -> None:
    """Write drawings as Google's bitmaps (``npy``) or as lines of numbers (``ndjson.gz``)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for name in names:
        drawings = rng.integers(0, 256, (count, 784)).astype(np.uint8)
        if form == "npy":
            np.save(folder / f"{name}.npy", drawings)
        else:
            lines = "\n".join(json.dumps((row / 255).round(4).tolist()) for row in drawings)
            (folder / f"{name}.ndjson.gz").write_bytes(gzip.compress(lines.encode()))


def _cifar10(folder: Path, *, form: str, batch: int = 70, test: int = 100) -> None:
    """Write five training batches and a test batch as records (``bin``) or sheets (``png``)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    train_labels: list[int] = []
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        count = test if name == "test_batch" else batch
        labels = np.arange(count) % 10
        colour = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        if form == "bin":
            planes = colour.transpose(0, 3, 1, 2).reshape(count, -1)
            records = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
            continue
        Image.fromarray(colour.reshape(count, 1024, 3)).save(folder / f"{name}.png")
        if name == "test_batch":
            (folder / "test_lables.json").write_text(json.dumps(labels.tolist()))
        else:
            train_labels += labels.tolist()
    if form == "png":
        (folder / "train_lables.json").write_text(json.dumps(train_labels))


@pytest.fixture
def write_idx() -> Callable[..., None]:
    return _idx


@pytest.fixture
def write_sketches() -> Callable[..., None]:
    return _sketches


@pytest.fixture
def write_cifar10() -> Callable[..., None]:
    return _cifar10


@pytest.fixture(scope="session")
def raw_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory from which both problems can be built: noise in a tenth of the real counts."""
    root = tmp_path_factory.mktemp("raw")
    _idx(root / "mnist", train=330, test=100, seed=3)
    _idx(root / "fashion", train=330, test=100, seed=4, gz=True)
    _sketches(root / "quickdraw", [*ANIMALS, *OBJECTS, "bee", "zigzag"], form="npy")
    _cifar10(root / "cifar10", form="bin")
    return root
