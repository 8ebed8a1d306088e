"""Labelled data from files and folders."""

import pickle

import numpy as np
import PIL.Image
import pytest

from moofusion.errors import DataError, UnknownNameError
from moofusion.tasks import ImageClassification, read_labelled

TEXTS = {split: [f"{split} {i}" for i in range(6)] for split in ("train", "validation", "test")}


# -------------------------------------------------------------------------------------- npz


@pytest.fixture
def archive(tmp_path, rng):
    arrays = {"classes": np.array(["cat", "dog"])}
    for split, size in (("train", 5), ("search", 4), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (size, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(size, dtype=np.uint8) % 2
    np.savez_compressed(tmp_path / "pets.npz", **arrays)
    return tmp_path / "pets.npz"


def test_an_archive_of_images(archive):
    data = read_labelled(archive, column="ignored")
    with np.load(archive) as stored:
        assert (data.items["search"] == stored["search_images"]).all()
    assert data.sizes == {"train": 5, "search": 4, "test": 3}
    assert data.classes == ("cat", "dog")
    assert data.labels["test"].tolist() == [0, 1, 0]
    assert data.labels["test"].dtype == np.int64


def test_an_archive_of_texts(tmp_path):
    np.savez(
        tmp_path / "t.npz",
        search_texts=np.array(["one", "two"]),
        search_labels=[1, 0],
        classes=["a", "b"],
    )
    data = read_labelled(tmp_path / "t.npz", column="text")
    assert data.items["search"] == ["one", "two"]
    assert data.sizes == {"search": 2}


def test_splits_of_an_archive_may_be_renamed(archive):
    data = read_labelled(archive, column="x", splits={"search": "test"})
    assert data.sizes == {"search": 3}


def test_a_split_that_an_archive_lacks(archive):
    with pytest.raises(DataError, match=r"pets\.npz has no split 'val'") as caught:
        read_labelled(archive, column="x", splits={"search": "val"})
    assert "search_images" in str(caught.value)


def test_an_archive_of_something_else(tmp_path):
    np.savez(tmp_path / "x.npz", weights=np.zeros(3))
    with pytest.raises(DataError, match=r"expected arrays '<split>_images'.*found \['weights'\]"):
        read_labelled(tmp_path / "x.npz", column="x")


def test_a_missing_archive(tmp_path):
    with pytest.raises(DataError, match="there is no data file") as caught:
        read_labelled(tmp_path / "gone.npz", column="x")
    assert "gone.npz" in str(caught.value)


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


def test_an_archive_with_pickled_objects_is_refused(tmp_path):
    items = np.array([Trap(tmp_path / "sprung"), 1], dtype=object)
    np.savez(
        tmp_path / "evil.npz", search_images=items, search_labels=np.arange(2), classes=["a", "b"]
    )
    with pytest.raises(DataError, match=r"evil\.npz cannot be read as plain arrays"):
        read_labelled(tmp_path / "evil.npz", column="x")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("damage", ["half", "garbage", "nothing", "pickle", "flipped", "array"])
def test_a_damaged_archive_is_refused(archive, damage, tmp_path):
    whole = archive.read_bytes()
    file = tmp_path / "bad.npz"
    if damage == "array":
        np.save(tmp_path / "a.npy", np.zeros(3))
        whole = (tmp_path / "a.npy").read_bytes()
    middle = len(whole) // 2
    file.write_bytes(
        {
            "half": whole[:middle],
            "garbage": b"<!DOCTYPE html>" * 9,
            "nothing": b"",
            "pickle": pickle.dumps(Trap(tmp_path / "sprung")),
            "flipped": whole[:100] + b"x" * 20 + whole[120:],
            "array": whole,
        }[damage]
    )
    with pytest.raises(DataError, match=r"bad\.npz cannot be read"):
        read_labelled(file, column="x")
    assert not (tmp_path / "sprung").exists()


# ---------------------------------------------------------------------- what `datasets` reads


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    tables = {
        split: Dataset.from_dict(
            {"text": texts, "label": [i % 2 for i in range(6)]}, features=features
        )
        for split, texts in TEXTS.items()
    }
    root = tmp_path_factory.mktemp("saved")
    DatasetDict(tables).save_to_disk(root / "dict")
    tables["test"].save_to_disk(root / "single")
    (root / "parquet").mkdir()
    for split, table in tables.items():
        table.to_parquet(root / "parquet" / f"{split}.parquet")
    return root


def _csv(folder, **splits):
    folder.mkdir()
    for split, labels in splits.items():
        rows = [f"{split} {i},{label}" for i, label in enumerate(labels)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows, ""]))
    return folder


@pytest.mark.parametrize("form", ["dict", "parquet"])
def test_data_sets_on_disk(saved, form):
    data = read_labelled(saved / form, column="text")
    assert data.classes == ("neg", "pos")
    assert data.items["search"] == TEXTS["validation"]
    assert data.items["test"] == TEXTS["test"]
    assert data.labels["train"].tolist() == [0, 1, 0, 1, 0, 1]


def test_a_single_table_on_disk_is_its_train_split(saved):
    data = read_labelled(saved / "single", column="text", splits={"search": "train[:2]"})
    assert data.items["search"] == TEXTS["test"][:2]


@pytest.mark.parametrize("form", ["dict", "parquet"])
def test_slices(saved, form):
    data = read_labelled(
        saved / form,
        column="text",
        splits={"train": "train[2:]", "search": "train[:2]", "test": "test[1:3]"},
    )
    assert data.items["train"] == TEXTS["train"][2:]
    assert data.items["search"] == TEXTS["train"][:2]
    assert data.items["test"] == TEXTS["test"][1:3]
    assert data.labels["test"].tolist() == [1, 0]


@pytest.mark.parametrize("form", ["dict", "parquet"])
@pytest.mark.parametrize("bounds", ["[a:3]", "[2", "[1:2:3]"])
def test_slices_that_cannot_be_read(saved, form, bounds):
    with pytest.raises(DataError, match="split") as caught:
        read_labelled(saved / form, column="text", splits={"search": f"train{bounds}"})
    assert f"train{bounds}" in str(caught.value)


@pytest.mark.parametrize("form", ["dict", "parquet"])
def test_missing_columns_and_splits_are_named(saved, form):
    with pytest.raises(DataError, match=r"no column 'txt'; it has \['text', 'label'\]"):
        read_labelled(saved / form, column="txt")
    with pytest.raises(DataError, match="no column 'stars'"):
        read_labelled(saved / form, column="text", label="stars")
    with pytest.raises(DataError, match="no split 'dev'; it has") as caught:
        read_labelled(saved / form, column="text", splits={"search": "dev"})
    assert "validation" in str(caught.value)


def test_a_split_that_tasks_do_not_have():
    with pytest.raises(UnknownNameError, match="unknown split 'serch'; did you mean 'search'"):
        read_labelled("anything", column="text", splits={"serch": "train"})


def test_csv_with_labels_in_words(tmp_path):
    folder = _csv(tmp_path / "d", train=["yes", "no", "yes"], test=["no", "no", "yes"])
    data = read_labelled(folder, column="text")
    assert data.classes == ("no", "yes")
    assert data.labels["train"].tolist() == [1, 0, 1]
    assert data.labels["test"].tolist() == [0, 0, 1]


def test_csv_with_numbers_as_labels_are_numbered_alike_in_every_split(tmp_path):
    folder = _csv(tmp_path / "d", train=[5, 2, 1, 3], validation=[1, 2, 1], test=[3, 4])
    data = read_labelled(folder, column="text")
    assert data.classes == ("1", "2", "3", "4", "5")
    assert data.labels["train"].tolist() == [4, 1, 0, 2]
    assert data.labels["search"].tolist() == [0, 1, 0]
    assert data.labels["test"].tolist() == [2, 3]


def test_csv_with_numbers_from_zero_keep_them(tmp_path):
    folder = _csv(tmp_path / "d", train=[0, 2], validation=[1, 1, 0])
    data = read_labelled(folder, column="text")
    assert data.labels["train"].tolist() == [0, 2]
    assert data.labels["search"].tolist() == [1, 1, 0]


def test_rows_without_a_label_are_refused(tmp_path):
    folder = _csv(tmp_path / "d", train=["yes", "", "no"])
    with pytest.raises(DataError, match="without a label"):
        read_labelled(folder, column="text")


def test_unlabelled_splits_are_refused(tmp_path):
    """As the test splits of GLUE: every label is -1."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    tables = {
        split: Dataset.from_dict({"text": ["x", "y"], "label": labels}, features=features)
        for split, labels in {"train": [0, 1], "test": [-1, -1]}.items()
    }
    DatasetDict(tables).save_to_disk(tmp_path / "glue")
    with pytest.raises(DataError, match="'test': label -1"):
        read_labelled(tmp_path / "glue", column="text")
    data = read_labelled(tmp_path / "glue", column="text", splits={"search": "train"})
    assert data.labels["search"].tolist() == [0, 1]


def test_no_split_of_a_known_name(tmp_path):
    from datasets import Dataset, DatasetDict

    table = Dataset.from_dict({"text": ["a"], "label": [0]})
    DatasetDict({"unsupervised": table}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=r"'unsupervised'.*is called train, search or test"):
        read_labelled(tmp_path / "d", column="text")


@pytest.mark.parametrize("source", ["./gone", "nobody/nothing"])
def test_a_data_set_that_cannot_be_opened(source):
    with pytest.raises(DataError, match="cannot be opened") as caught:
        read_labelled(source, column="text")
    assert source in str(caught.value)


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="cannot be opened"):
        read_labelled(tmp_path, column="text")


def test_pictures_of_a_data_set_reach_the_task(tmp_path, rng):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
    from transformers import ViTImageProcessorPil

    pixels = rng.integers(0, 256, (4, 8, 8), dtype=np.uint8)
    table = Dataset.from_dict(
        {"image": [PIL.Image.fromarray(p) for p in pixels], "label": [0, 1, 1, 0]},
        features=Features({"image": Image(), "label": ClassLabel(names=["a", "b"])}),
    )
    DatasetDict({"test": table}).save_to_disk(tmp_path / "d")
    data = read_labelled(tmp_path / "d", column="image", splits={"search": "test"})
    processor = ViTImageProcessorPil(do_resize=False, image_mean=[0.0], image_std=[1.0])
    inputs, labels = ImageClassification("x", data, processor=processor).data("search")
    assert (inputs["pixel_values"][:, 0] * 255).round().numpy().astype(np.uint8).tolist() == (
        pixels.tolist()
    )
    assert labels.tolist() == [0, 1, 1, 0]
