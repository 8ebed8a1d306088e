"""Labelled data from a file, a folder or the hub: one face for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import DataError, UnknownNameError
from moofusion.tasks.base import SPLITS

__all__ = ["LabelledData", "read_labelled"]


@dataclass(frozen=True)
class LabelledData:
    """Items and labels of the splits of one data set.

    Attributes:
        items: For each split an array of images ``(N, H, W[, C])``, or a list of images or texts.
        labels: For each split the labels, shape ``(N,)``.
        classes: Class names in label order.
    """

    items: Mapping[str, Any]
    labels: Mapping[str, NDArray[np.int64]]
    classes: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples of every split."""
        return {split: len(labels) for split, labels in self.labels.items()}


def read_labelled(
    source: str | Path,
    *,
    column: str,
    label: str = "label",
    splits: Mapping[str, str] | None = None,
    name: str | None = None,
) -> LabelledData:
    """Read the splits of a labelled data set.

    Args:
        source: An ``.npz`` file (``<split>_images`` or ``<split>_texts``, ``<split>_labels`` and
            ``classes``), a folder written by ``datasets``' ``save_to_disk``, or whatever
            ``datasets.load_dataset`` reads: a folder of parquet, csv, json or image files, or a
            hub id.
        column: Column that holds the image or the text (data sets only).
        label: Column that holds the label (data sets only).
        splits: For each of train, search and test the split of the data set it comes from, in
            ``datasets``' notation (``"train[:1000]"``). By default splits of the same name, with
            ``validation`` as search.
        name: Configuration of the data set, for those that have several.

    Raises:
        DataError: The source, a split or a column is missing, or cannot be read.
    """
    for split in splits or {}:
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
    path = Path(source).expanduser()
    if path.suffix == ".npz":
        return _read_npz(path, splits)
    return _read_dataset(str(source), path, column, label, splits, name)


def _read_npz(path: Path, splits: Mapping[str, str] | None) -> LabelledData:
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"there is no data file {path}, or it cannot be opened") from error
    try:
        with file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, KeyError, EOFError, TypeError, BadZipFile) as error:
        raise DataError(f"{path} cannot be read as plain arrays: {error}") from error
    items: dict[str, Any] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    for split, origin in (splits or {split: split for split in SPLITS}).items():
        kind = next((k for k in ("images", "texts") if f"{origin}_{k}" in arrays), None)
        if kind and f"{origin}_labels" in arrays:
            values = arrays[f"{origin}_{kind}"]
            items[split] = values if kind == "images" else [str(v) for v in values]
            labels[split] = arrays[f"{origin}_labels"].astype(np.int64)
        elif splits:
            raise DataError(f"{path} has no split {origin!r}; it has {sorted(arrays)}")
    if not labels or "classes" not in arrays:
        raise DataError(
            f"{path}: expected arrays '<split>_images' or '<split>_texts', '<split>_labels' and "
            f"'classes', found {sorted(arrays)}"
        )
    return LabelledData(items, labels, tuple(str(c) for c in arrays["classes"]))


def _read_dataset(
    source: str,
    path: Path,
    column: str,
    label: str,
    splits: Mapping[str, str] | None,
    name: str | None,
) -> LabelledData:
    import datasets

    try:
        if (path / "dataset_dict.json").exists():
            loaded = datasets.load_from_disk(str(path))
            available = list(loaded)
        else:
            available = datasets.get_dataset_split_names(source, name)
            loaded = None
    except Exception as error:  # the loader raises a dozen unrelated types
        raise DataError(
            f"the data set {source!r} cannot be opened: {error}; expected an .npz file, a folder "
            "or a hub id that `datasets.load_dataset` reads"
        ) from error
    wanted = dict(splits) if splits else _default_splits(available)
    items: dict[str, Any] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    classes: tuple[str, ...] = ()
    for split, origin in wanted.items():
        base = origin.split("[", 1)[0]
        if base not in available:
            raise DataError(f"data set {source!r} has no split {base!r}; it has {available}")
        if loaded is None:
            table = datasets.load_dataset(source, name, split=origin)
        else:
            table = _slice_split(loaded, origin)
        for wants in (column, label):
            if wants not in table.column_names:
                raise DataError(
                    f"data set {source!r} has no column {wants!r}; it has {table.column_names}"
                )
        classes = classes or _classes(table, label)
        items[split] = list(table[column])
        labels[split] = _codes(table[label], classes)
    return LabelledData(items, labels, classes)


def _default_splits(available: Sequence[str]) -> dict[str, str]:
    wanted = {split: split for split in SPLITS if split in available}
    if "search" not in wanted and "validation" in available:
        wanted["search"] = "validation"
    if not wanted:
        raise DataError(f"none of the splits {list(available)} is called train, search or test")
    return wanted


def _slice_split(loaded: Any, origin: str) -> Any:
    """A split of a data set on disk in the notation of `load_dataset`, ``"train[10:20]"``."""
    base, _, bounds = origin.partition("[")
    table = loaded[base]
    if not bounds:
        return table
    try:
        start, _, stop = bounds.rstrip("]").partition(":")
        rows = range(len(table))[slice(int(start) if start else None, int(stop) if stop else None)]
    except ValueError as error:
        raise DataError(f"split {origin!r}: expected a form such as 'train[:1000]'") from error
    return table.select(rows)


def _classes(table: Any, label: str) -> tuple[str, ...]:
    feature = table.features[label]
    names = getattr(feature, "names", None)
    return tuple(names) if names else tuple(str(v) for v in sorted(set(table[label])))


def _codes(values: Sequence[Any], classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Labels as indices into `classes`; class labels of `datasets` already are."""
    if all(isinstance(v, int) and 0 <= v < len(classes) for v in values):
        return np.asarray(values, np.int64)
    index = {name: i for i, name in enumerate(classes)}
    try:
        return np.array([index[str(v)] for v in values], np.int64)
    except KeyError as error:
        raise DataError(f"label {error} is not among the classes {list(classes)}") from error
