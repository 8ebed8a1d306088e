"""Writes what was built, how, and how good it is: ``manifest.json`` and the final table."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from dataclasses import asdict
from pathlib import Path

from moofusion.zoo import checkpoints
from moofusion.zoo.data import RawData
from moofusion.zoo.vision import Recipe

#: Accuracy in [0, 1] by model, then by task.
Table = dict[str, dict[str, float]]


def write_manifest(
    work: Path, name: str, plan: Recipe, raw: RawData, accuracy: dict[str, Table]
) -> None:
    """Write ``manifest.json`` and remove the notes of the single stages, which it contains.

    Args:
        work: the folder that holds everything else already.
        name: the problem.
        plan: its recipe.
        raw: its data.
        accuracy: by split, model and task.
    """
    stages = work / "stages"
    trained = {p.stem: json.loads(p.read_text()) for p in sorted(stages.glob("*.json"))}
    shutil.rmtree(stages)
    base = checkpoints.load_checkpoint(work / "models" / "base")
    body = sum(p.numel() for p in base.vit.parameters())
    files = sorted(p for p in work.rglob("*") if p.is_file())
    manifest = {
        "name": name,
        "parameters": {"body": body, "base": sum(p.numel() for p in base.parameters())},
        "splits": {
            task: {split: len(labels) for split, (_, labels) in data.splits.items()}
            for task, data in raw.tasks.items()
        },
        "pool": {task: len(data.pool[1]) for task, data in raw.tasks.items()},
        "pretraining": {
            "sketches": len(raw.sketches[1]),
            "sketch_classes": len(raw.sketches[2]),
            "photographs": len(raw.photographs),
        },
        "duplicates_dropped": {task: data.dropped for task, data in raw.tasks.items()},
        "recipe": asdict(plan),
        "training": trained,
        "accuracy": accuracy,
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


def print_tables(name: str, accuracy: dict[str, Table]) -> None:
    """Print one table per split: models in rows, tasks in columns."""
    from rich.console import Console
    from rich.table import Table as RichTable

    for split, rows in accuracy.items():
        table = RichTable(title=f"{name}: accuracy in % ({split})")
        table.add_column("model")
        for task in next(iter(rows.values())):
            table.add_column(task, justify="right")
        for model, values in rows.items():
            table.add_row(model, *(f"{100 * value:.1f}" for value in values.values()))
        Console().print(table)
