"""Labelled data from a file, a folder or the hub: one face for all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    except Exception as error:  # damage shows as zip, zlib, numpy and end-of-file errors
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
            loaded = dict(datasets.load_from_disk(str(path)))
        elif (path / "state.json").exists():
            loaded = {"train": datasets.load_from_disk(str(path))}
        else:
            loaded = None
        available = list(loaded or datasets.get_dataset_split_names(source, name))
    except Exception as error:  # the loader raises a dozen unrelated types
        raise DataError(
            f"the data set {source!r} cannot be opened: {error}; expected an .npz file, a folder "
            "or a hub id that `datasets.load_dataset` reads"
        ) from error
    wanted = dict(splits) if splits else _default_splits(available)
    tables: dict[str, Any] = {}
    for split, origin in wanted.items():
        base = origin.split("[", 1)[0]
        if base not in available:
            raise DataError(f"data set {source!r} has no split {base!r}; it has {available}")
        try:
            if loaded is None:
                table = datasets.load_dataset(source, name, split=origin)
            else:
                table = _slice_split(loaded, origin)
        except Exception as error:  # as above
            raise DataError(
                f"split {origin!r} of data set {source!r} cannot be read: {error}"
            ) from error
        for wants in (column, label):
            if wants not in table.column_names:
                raise DataError(
                    f"data set {source!r} has no column {wants!r}; it has {table.column_names}"
                )
        tables[split] = table
    classes = _classes(list(tables.values()), label)
    return LabelledData(
        {split: list(table[column]) for split, table in tables.items()},
        {split: _codes(table, label, classes, wanted[split]) for split, table in tables.items()},
        classes,
    )


def _default_splits(available: Sequence[str]) -> dict[str, str]:
    wanted = {split: split for split in SPLITS if split in available}
    if "search" not in wanted and "validation" in available:
        wanted["search"] = "validation"
    if not wanted:
        raise DataError(f"none of the splits {list(available)} is called train, search or test")
    return wanted


def _slice_split(loaded: Any, origin: str) -> Any:
    """A split of a data set on disk in the notation of `load_dataset`, ``"train[10:20]"``."""
    base, bracket, _ = origin.partition("[")
    table = loaded[base]
    if not bracket:
        return table
    bounds = re.fullmatch(r"\[(-?\d*):(-?\d*)\]", origin.removeprefix(base))
    if not bounds:
        raise DataError("expected a form such as 'train[:1000]'")
    start, stop = (int(bound) if bound else None for bound in bounds.groups())
    return table.select(range(len(table))[start:stop])


def _classes(tables: Sequence[Any], label: str) -> tuple[str, ...]:
    """Names of the feature, else the values that occur in any of the splits."""
    names = getattr(tables[0].features[label], "names", None)
    if names:
        return tuple(names)
    found = {value for table in tables for value in table[label]}
    if None in found:
        raise DataError(f"column {label!r} has rows without a label")
    return tuple(str(value) for value in sorted(found))


def _codes(table: Any, label: str, classes: tuple[str, ...], origin: str) -> NDArray[np.int64]:
    """Labels as indices into `classes`."""
    coded = hasattr(table.features[label], "names")
    index = {i if coded else name: i for i, name in enumerate(classes)}
    try:
        return np.array([index[v if coded else str(v)] for v in table[label]], np.int64)
    except KeyError as error:
        raise DataError(
            f"split {origin!r}: label {error} is not among the classes {list(classes)}; choose "
            "splits that are labelled"
        ) from error
