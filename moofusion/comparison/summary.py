"""The summary of a search in words and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moofusion.comparison.front import PointSet
from moofusion.comparison.quality import REFERENCE, hypervolume_backend

if TYPE_CHECKING:
    from moofusion.comparison.result import SearchResult

__all__ = ["summary", "summary_html", "summary_rows"]


def summary_rows(result: SearchResult) -> list[tuple[str, PointSet, int]]:
    """Label, point set and index of each row: references, extremes of the front, knee."""
    rows = [(label, result.references, i) for i, label in enumerate(result.references.labels)]
    front = result.front
    F = front.normalized("search")
    for j, task in enumerate(front.tasks):
        rows.append((f"front: best {task}", front, int(F[:, j].argmin())))
    if len(front.tasks) > 1:
        rows.append(("front: knee", front, front.choose(by="knee")))
    return rows


def summary(result: SearchResult) -> str:
    """Markdown report of a search.

    Args:
        result: What the search found.
    """
    settings, front = result.settings, result.front
    lines = [
        f"# {settings['problem']}: {settings['algorithm']}, seed {settings['seed']}",
        "",
        f"{len(result.evaluated)} evaluations in {result.seconds:.1f} s gave a front of "
        f"{len(front)} models.",
        "",
    ]
    for split in reversed(result.splits):
        lines += [f"## {split} split", "", *_table(result, split), ""]
    if "test" not in result.splits:
        lines += ["**No held-out test split**: all values are those the search saw.", ""]
    if len(front.tasks) > 1:
        lines += [
            "Rows of the front are chosen on search: the best model of each task there, and the "
            "knee, which bulges most towards the best of all tasks.",
            "",
        ]
    lines += _hypervolumes(result)
    lines += ["## Reproduce", "", *_footer(result), ""]
    return "\n".join(lines)


def _table(result: SearchResult, split: str) -> list[str]:
    metrics = result.front.metrics
    heads = [
        f"{task} ({metric.name}{' %' if metric.percent else ''})"
        for task, metric in zip(result.front.tasks, metrics, strict=True)
    ]
    lines = ["| model | " + " | ".join(heads) + " |", "|:--|" + "--:|" * len(heads)]
    for label, points, index in summary_rows(result):
        cells = [
            metric.text(v, unit=False)
            for v, metric in zip(points.values(split)[index], metrics, strict=True)
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _hypervolumes(result: SearchResult) -> list[str]:
    n_obj = len(result.front.tasks)
    backend = hypervolume_backend(n_obj, len(result.front))
    values = {split: result.hypervolume(split) for split in result.splits}
    lines = [
        "## Hypervolume",
        "",
        "| " + " | ".join(values) + (" | gap |" if len(values) > 1 else " |"),
        "|" + "--:|" * (len(values) + (len(values) > 1)),
    ]
    cells = [f"{value:.4f}" for value in values.values()]
    if len(values) > 1:
        cells.append(f"{values['search'] - values['test']:+.4f}")
    lines += [
        "| " + " | ".join(cells) + " |",
        "",
        "Objective j is scaled by the anchors (base and experts) of the same split: "
        "f = (error - best anchor) / (worst anchor - best anchor). "
        f"Reference point ({', '.join([str(REFERENCE)] * n_obj)}); points beyond it add nothing; "
        f"the largest possible value is about {REFERENCE**n_obj:.4g}. Computed: {backend}."
        + (" The gap is search minus test, each in its own scale." if len(values) > 1 else ""),
        "",
    ]
    return lines


def _footer(result: SearchResult) -> list[str]:
    settings = result.settings
    versions = ", ".join(f"{name} {number}" for name, number in settings["versions"].items())
    lines = []
    if settings.get("command"):
        lines += ["```", str(settings["command"]), "```", ""]
    lines += [
        f"- problem fingerprint {settings['fingerprint']}",
        f"- Python {settings['python']}, {versions}",
        f"- device {settings['device']}, {settings['threads']} threads",
    ]
    return lines


def summary_html(result: SearchResult) -> str:
    """Table and plot for notebooks."""
    import pandas as pd

    from moofusion.comparison.figure import figure_html

    split = result.splits[-1]
    rows = summary_rows(result)
    table = pd.DataFrame(
        np.array([points.values(split)[i] for _, points, i in rows]),
        index=[label for label, _, _ in rows],
        columns=list(result.front.tasks),
    )
    volumes = ", ".join(f"{s} {result.hypervolume(s):.4f}" for s in result.splits)
    return (
        f"<p><b>{result.settings['problem']}</b>: {result.settings['algorithm']}, "
        f"{len(result.evaluated)} evaluations, {len(result.front)} models on the front, "
        f"normalized hypervolume {volumes} (reference {REFERENCE}); table: {split} split</p>"
        f"{table.to_html(float_format='{:.4f}'.format)}"
        f"{figure_html(result.plot(split=split), 'front')}"
    )
