"""Labelled data from files and folders."""

import pickle

import hub
import numpy as np
import PIL.Image
import pytest
from datasets.exceptions import DatasetNotFoundError

from moofusion.errors import DataError, UnknownNameError
from moofusion.tasks import ImageClassification, read_labelled
from moofusion.tasks.data import shuffled

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


# ------------------------------------------------------------------- holding out, sampling, pairs


def _sorted_set(folder, size=60):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"a": Value("string"), "b": Value("string"), "label": ClassLabel(3)})
    rows = {"a": [f"a{i}" for i in range(size)], "b": [f"b{i}" for i in range(size)]}
    rows["label"] = np.sort(np.arange(size) % 3)
    table = Dataset.from_dict(rows, features=features)
    DatasetDict({"train": table, "test": table}).save_to_disk(folder)
    return folder


def test_held_out_samples_leave_train_and_hold_every_class(tmp_path):
    data = read_labelled(_sorted_set(tmp_path), column="a", holdout=20)
    assert data.sizes == {"train": 40, "search": 20, "test": 60}
    assert sorted(data.items["train"] + data.items["search"]) == sorted(data.items["test"])
    assert (np.bincount(data.labels["search"]) >= 4).all()
    whole = dict(zip(data.items["test"], data.labels["test"], strict=True))
    for split in ("train", "search"):
        kept = [whole[item] for item in data.items[split]]
        assert data.labels[split].tolist() == kept


def test_the_policy_never_changes():
    """Recorded: results on held-out samples are comparable between machines and versions."""
    assert shuffled(10).tolist() == [9, 2, 1, 3, 6, 7, 5, 8, 0, 4]
    assert sorted(shuffled(1000)) == list(range(1000))


def test_archives_are_cut_alike(archive):
    data = read_labelled(
        archive, column="x", splits={"train": "train", "test": "test"}, holdout=2,
        samples={"test": 1, "train": 99},
    )  # fmt: skip
    assert data.sizes == {"train": 3, "search": 2, "test": 1}
    with np.load(archive) as stored:
        order = shuffled(5)
        assert (data.items["search"] == stored["train_images"][np.sort(order[:2])]).all()
        assert (data.items["train"] == stored["train_images"][np.sort(order[2:])]).all()


def test_fewer_samples_are_a_part_of_more(tmp_path):
    folder = _sorted_set(tmp_path)
    few, more = (read_labelled(folder, column="a", holdout=20, samples={"train": n, "search": n})
                 for n in (5, 12))  # fmt: skip
    for split in ("train", "search"):
        assert len(few.items[split]) == 5
        assert set(few.items[split]) < set(more.items[split])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout": 60}, "holdout=60, expected 1 to 59, as train has 60"),
        ({"holdout": 5, "splits": {"test": "test"}}, "no train split"),
        ({"holdout": 5, "splits": {"train": "train", "search": "test"}}, "has a search split"),
        ({"samples": {"train": 0}}, "positive number, got 0"),
    ],
)
def test_splits_that_cannot_be_cut(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        read_labelled(_sorted_set(tmp_path), column="a", **options)


def test_unknown_splits_to_sample(tmp_path):
    with pytest.raises(UnknownNameError, match="'validation'"):
        read_labelled(_sorted_set(tmp_path), column="a", samples={"validation": 3})


def test_pairs_of_texts(tmp_path):
    data = read_labelled(_sorted_set(tmp_path), column=["a", "b"], holdout=5)
    assert data.items["test"][7] == ("a7", "b7")
    with pytest.raises(DataError, match=r"no column 'c'; it has .*set column"):
        read_labelled(tmp_path, column=["a", "c"])


def test_pictures_are_decoded_when_they_are_needed(tmp_path):
    """Eight data sets of decoded photographs would fill the memory."""
    hub.save_picture_data(tmp_path / "set", ["x", "y"])
    data = read_labelled(tmp_path / "set", column="image", holdout=10)
    assert not isinstance(data.items["train"], list)
    assert data.items["train"][:2][1].mode == "RGB"
    assert len(pickle.loads(pickle.dumps(data)).items["search"]) == 10


# -------------------------------------------------------------------------- errors a user meets


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), ["disk is full", "HF_HOME"]),
        (ConnectionError("Couldn't reach the Hub"), ["no network", "folder"]),
        (RuntimeError("401: this is a gated dataset"), ["gated", "hf auth login"]),
        (
            DatasetNotFoundError("Dataset 'owner/name' doesn't exist on the Hub"),
            ["no data set of the hub is called", "check the spelling", "hf auth login"],
        ),
    ],
)
def test_what_the_loader_says_becomes_what_to_do(monkeypatch, error, words):
    import datasets

    def fail(*_, **__):
        raise RuntimeError("while downloading") from error

    monkeypatch.setattr(datasets, "get_dataset_split_names", fail)
    with pytest.raises(DataError) as caught:
        read_labelled("owner/name", column="text")
    for word in ["owner/name", *words]:
        assert word in str(caught.value)
