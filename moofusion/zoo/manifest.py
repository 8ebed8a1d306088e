"""Writes what was built, how, and how good it is: ``manifest.json`` and the final table."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moofusion.zoo import checkpoints

#: A metric by model, then by task.
Table = dict[str, dict[str, float]]


def write_manifest(
    work: Path, name: str, facts: Mapping[str, Any], metric: str, tables: Mapping[str, Table]
) -> None:
    """Write ``manifest.json`` and remove the notes of the single stages, which it contains.

    Args:
        work: the folder that holds everything else already.
        name: the problem.
        facts: sizes and recipe.
        metric: what was measured; the key of `tables`.
        tables: by split, model and task.
    """
    stages = work / "stages"
    trained = {p.stem: json.loads(p.read_text()) for p in sorted(stages.glob("*.json"))}
    shutil.rmtree(stages)
    files = sorted(p for p in work.rglob("*") if p.is_file())
    manifest = {
        "name": name,
        **facts,
        "training": trained,
        metric: tables,
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in ("torch", "transformers", "numpy")},
        },
        "files": {
            p.relative_to(work).as_posix(): {
                "bytes": p.stat().st_size,
                "sha256": checkpoints.sha256(p),
            }
            for p in files
        },
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (work / "manifest.json").write_text(text, encoding="utf-8")


def print_tables(name: str, metric: str, tables: Mapping[str, Table]) -> None:
    """Print one table per split: models in rows, tasks in columns; accuracies in %."""
    from rich.console import Console
    from rich.table import Table as RichTable

    percent = metric == "accuracy"
    title = "accuracy in %" if percent else metric.replace("_", " ")
    for split, rows in tables.items():
        table = RichTable(title=f"{name}: {title} ({split})")
        table.add_column("model")
        for task in next(iter(rows.values())):
            table.add_column(task, justify="right")
        for model, values in rows.items():
            shown = (f"{100 * v:.1f}" if percent else f"{v:.3f}" for v in values.values())
            table.add_row(model, *shown)
        Console().print(table)
