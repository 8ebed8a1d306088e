"""Labelled data from a file, a folder or the hub: one face for all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from moofusion.errors import DataError, UnknownNameError
from moofusion.tasks.base import SPLITS
from moofusion.weights.sources import no_space

__all__ = ["LabelledData", "read_columns", "read_labelled", "shuffled"]


@dataclass(frozen=True)
class LabelledData:
    """Items and labels of the splits of one data set.

    Attributes:
        items: For each split an array of images ``(N, H, W[, C])``, or a sequence of images, texts
            or pairs of texts; images of a data set are decoded when they are asked for.
        labels: For each split the labels, shape ``(N,)``.
        classes: Class names in label order.

    Example:
        >>> images, labels = {"test": np.zeros((5, 8, 8))}, {"test": np.arange(5) % 2}
        >>> data = LabelledData(images, labels, ("cat", "dog"))
        >>> data.sizes
        {'test': 5}
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
    column: str | Sequence[str],
    label: str = "label",
    splits: Mapping[str, str] | None = None,
    name: str | None = None,
    holdout: int | None = None,
    samples: Mapping[str, int] | None = None,
) -> LabelledData:
    """Read the splits of a labelled data set.

    Args:
        source: An ``.npz`` file (``<split>_images`` or ``<split>_texts``, ``<split>_labels`` and
            ``classes``), a folder written by ``datasets``' ``save_to_disk``, or whatever
            ``datasets.load_dataset`` reads: a folder of parquet, csv, json or image files, or a
            hub id.
        column: Column that holds the image or the text, or two columns of text that are read as
            pairs (data sets only).
        label: Column that holds the label (data sets only).
        splits: For each of train, search and test the split of the data set it comes from, in
            ``datasets``' notation (``"train[:1000]"``). By default splits of the same name, with
            ``validation`` as search.
        name: Configuration of the data set, for those that have several.
        holdout: Without a search split of its own: so many samples of train become search, and
            leave train. Which ones depends on their number alone (see :func:`shuffled`).
        samples: For each split the most samples to take, drawn in the same way.

    Raises:
        DataError: The source, a split or a column is missing, or cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     np.savez(f"{place}/a.npz", train_images=np.zeros((9, 8, 8), np.uint8),
        ...              train_labels=np.arange(9) % 2, classes=["even", "odd"])
        ...     data = read_labelled(f"{place}/a.npz", column="image", holdout=3,
        ...                          samples={"train": 5})
        >>> data.sizes
        {'train': 5, 'search': 3}
    """
    for split in [*(splits or {}), *(samples or {})]:
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
    path = Path(source).expanduser()
    chosen = _Choice(str(source), holdout, dict(samples or {}))
    if path.suffix == ".npz":
        return _read_npz(path, splits, chosen)
    columns = (column,) if isinstance(column, str) else tuple(column)
    return _read_dataset(str(source), path, columns, label, splits, name, chosen)


def read_columns(
    source: str | Path,
    columns: Sequence[str],
    *,
    splits: Mapping[str, str] | None = None,
    name: str | None = None,
    holdout: int | None = None,
    samples: Mapping[str, int] | None = None,
) -> dict[str, list[tuple[Any, ...]]]:
    r"""Rows of the splits of a data set without labels, as tuples of the named columns.

    Args:
        source: A folder or hub id that ``datasets`` reads (see :func:`read_labelled`).
        columns: Columns to take.
        splits: As for :func:`read_labelled`.
        name: Configuration of the data set.
        holdout: As for :func:`read_labelled`.
        samples: As for :func:`read_labelled`.

    Raises:
        DataError: The source, a split or a column is missing, or cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     _ = Path(place, "test.csv").write_text("question,answer\n1 + 1,2\n")
        ...     read_columns(place, ["question", "answer"])
        {'test': [('1 + 1', 2)]}
    """
    for split in [*(splits or {}), *(samples or {})]:
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
    chosen = _Choice(str(source), holdout, dict(samples or {}))
    path = Path(source).expanduser()
    taken, _ = _read_tables(
        str(source), path, dict.fromkeys(columns, "column"), splits, name, chosen
    )
    return {
        split: list(zip(*(table[column] for column in columns), strict=True))
        for split, table in taken.items()
    }


def shuffled(count: int) -> NDArray[np.int64]:
    """A fixed random order of ``0 .. count - 1``, the same on every machine and version.

    Indices are sorted by their hash, so that a data set sorted by class is cut evenly.

    Example:
        >>> shuffled(5).tolist() == shuffled(5).tolist() != [0, 1, 2, 3, 4]
        True
    """
    keys = [xxhash.xxh3_64_intdigest(index.to_bytes(8, "little")) for index in range(count)]
    return np.argsort(np.array(keys, np.uint64), kind="stable").astype(np.int64)


@dataclass(frozen=True)
class _Choice:
    """Which rows of the splits of a source are taken."""

    source: str
    holdout: int | None
    samples: Mapping[str, int]

    def rows(self, sizes: Mapping[str, int]) -> dict[str, tuple[str, NDArray[np.int64] | None]]:
        """For each split the split it is cut from, and its rows in order (None: all)."""
        parts: dict[str, tuple[str, NDArray[np.int64] | None]] = {s: (s, None) for s in sizes}
        if self.holdout is not None:
            if "train" not in sizes or "search" in sizes:
                why = "it has a search split" if "search" in sizes else "it has no train split"
                raise DataError(f"data set {self.source!r}: holdout={self.holdout}, but {why}")
            if not 0 < self.holdout < sizes["train"]:
                raise DataError(
                    f"data set {self.source!r}: holdout={self.holdout}, expected 1 to "
                    f"{sizes['train'] - 1}, as train has {sizes['train']} samples"
                )
            order = shuffled(sizes["train"])
            parts["search"] = "train", order[: self.holdout]
            parts["train"] = "train", order[self.holdout :]
        for split, most in self.samples.items():
            if most < 1:
                raise DataError(f"samples of {split!r}: expected a positive number, got {most}")
            if split in parts:
                origin, rows = parts[split]
                if most < (sizes[origin] if rows is None else len(rows)):
                    rows = shuffled(sizes[origin]) if rows is None else rows
                    parts[split] = origin, rows[:most]
        present = [split for split in SPLITS if split in parts]
        return {split: _sorted(*parts[split]) for split in present}


def _sorted(origin: str, rows: NDArray[np.int64] | None) -> tuple[str, NDArray[np.int64] | None]:
    return origin, None if rows is None else np.sort(rows)


def _read_npz(path: Path, splits: Mapping[str, str] | None, chosen: _Choice) -> LabelledData:
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
    parts = chosen.rows({split: len(values) for split, values in labels.items()})
    return LabelledData(
        {split: _take(items[origin], rows) for split, (origin, rows) in parts.items()},
        {split: _take(labels[origin], rows) for split, (origin, rows) in parts.items()},
        tuple(str(c) for c in arrays["classes"]),
    )


def _take(values: Any, rows: NDArray[np.int64] | None) -> Any:
    if rows is None:
        return values
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def _read_dataset(
    source: str,
    path: Path,
    columns: tuple[str, ...],
    label: str,
    splits: Mapping[str, str] | None,
    name: str | None,
    chosen: _Choice,
) -> LabelledData:
    wanted = dict.fromkeys(columns, "column") | {label: "label"}
    tables, origins = _read_tables(source, path, wanted, splits, name, chosen)
    classes = _classes(list(tables.values()), label)
    return LabelledData(
        {split: _items(table, columns) for split, table in tables.items()},
        {split: _codes(table, label, classes, origins[split]) for split, table in tables.items()},
        classes,
    )


def _read_tables(
    source: str,
    path: Path,
    columns: Mapping[str, str],
    splits: Mapping[str, str] | None,
    name: str | None,
    chosen: _Choice,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Tables of the splits, and where each was cut from.

    `columns` names those that must be there, and the option that names each.
    """
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
        raise _unopened(source, error) from error
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
                f"split {origin!r} of data set {source!r} cannot be read: "
                f"{no_space(error) or error}"
            ) from error
        for wants, key in columns.items():
            if wants not in table.column_names:
                raise DataError(
                    f"data set {source!r} has no column {wants!r}; it has {table.column_names}, "
                    f"so set {key} to the right one"
                )
        tables[split] = table
    parts = chosen.rows({split: len(table) for split, table in tables.items()})
    taken = {
        split: tables[origin] if rows is None else tables[origin].select(rows)
        for split, (origin, rows) in parts.items()
    }
    return taken, {split: wanted[origin] for split, (origin, _) in parts.items()}


def _unopened(source: str, error: BaseException) -> DataError:
    """What went wrong in opening a data set, and what to do about it."""
    if full := no_space(error):
        return DataError(f"the data set {source!r} could not be fetched: {full}")
    text = ""
    cause: BaseException | None = error
    while cause is not None and str(cause) not in text:
        text += f"{type(cause).__name__}: {cause}\n"
        cause = cause.__cause__ or cause.__context__
    if "gated" in text.lower():
        return DataError(
            f"the data set {source!r} is gated; ask for access on its page and log in with "
            "`hf auth login`"
        )
    if re.search(r"doesn't exist on the hub", text, re.IGNORECASE):
        return DataError(
            f"no folder and no data set of the hub is called {source!r}; check the spelling, or "
            "log in with `hf auth login` if it is private"
        )
    local = source.startswith((".", "/", "~"))
    if not local and re.search(
        r"offline|connect|resolve|timed? ?out|LocalEntryNotFound", text, re.IGNORECASE
    ):
        return DataError(
            f"the data set {source!r} cannot be opened: there is no folder of that name, it is not "
            "in the cache, and it could not be fetched (no network, or offline mode); expected an "
            ".npz file, a folder or a hub id that `datasets.load_dataset` reads"
        )
    return DataError(
        f"the data set {source!r} cannot be opened: {error}; expected an .npz file, a folder "
        "or a hub id that `datasets.load_dataset` reads"
    )


def _items(table: Any, columns: tuple[str, ...]) -> Any:
    if len(columns) > 1:
        return list(zip(*(table[column] for column in columns), strict=True))
    # Pictures stay where they are until they are preprocessed: decoded they fill the memory.
    image = type(table.features[columns[0]]).__name__ == "Image"
    return table[columns[0]] if image else list(table[columns[0]])


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
