"""Files of single runs beside the store of a study: trainings that go on, and trained routers."""

from __future__ import annotations

from pathlib import Path

import xxhash

from moofusion.comparison.store import Cell

__all__ = ["router_file", "training_file"]


def training_file(study: Path, cell: Cell) -> Path:
    """Where a training of a run is kept while the run is not finished.

    Example:
        >>> cell = Cell(1, "f00", "toy", "pwemoe:steps=9", 3, "cost=90", "running", "", 50, 0)
        >>> training_file(Path("study.db"), cell).as_posix()
        'study.db-files/pwemoe-3-9e406169-training.safetensors'
    """
    return _file(study, cell, "training")


def router_file(study: Path, cell: Cell) -> Path:
    """Where the trained router of a run is kept."""
    return _file(study, cell, "router")


def _file(study: Path, cell: Cell, kind: str) -> Path:
    # Named by what the run is, not by its number: another study in its place has other files.
    identity = f"{cell.problem}\n{cell.algorithm}\n{cell.seed}\n{cell.budget}"
    digest = xxhash.xxh3_64_hexdigest(identity.encode())[:8]
    name = f"{cell.algorithm.partition(':')[0]}-{cell.seed}-{digest}-{kind}.safetensors"
    return study.with_name(f"{study.name}-files") / name
