"""What the report page knows about a problem: plain data for its scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moofusion.comparison.report.commands import export_command
from moofusion.comparison.report.progress import bands, limits
from moofusion.comparison.report.routers import router_data
from moofusion.comparison.report.scores import AXES, Section
from moofusion.comparison.report.style import looks, reference_looks
from moofusion.merging.methods.ranges import shown

__all__ = ["section_data"]

# Digits of what is only looked at; objectives, from which models are chosen, keep all of them.
_DIGITS = 5


def section_data(section: Section, study: str | Path) -> dict[str, Any]:
    """Tasks, reference models, fronts of all algorithms, anytime bands, export command.

    The front of an algorithm is pooled over its runs: these are the models that
    ``moofusion export`` chooses from.

    Args:
        section: The problem.
        study: The store of the study, as commands are to name it.
    """
    problem = section.problem
    return {
        "title": section.title,
        "splits": list(problem.splits),
        "tasks": [
            {
                "name": task,
                "metric": metric.name,
                "percent": metric.percent,
                "direction": metric.direction,
                "best": metric.best,
            }
            for task, metric in zip(problem.tasks, problem.objectives, strict=True)
        ],
        "variables": list(problem.variables),
        # By split and task: ideal and nadir objective of the anchors.
        "scales": {split: scale.T.tolist() for split, scale in problem.scales.items()},
        "references": _references(section),
        "algorithms": _algorithms(section),
        "costs": dict(AXES),
        "progress": _short(limits(section)),
        "routers": router_data(section, study),
        # The page puts in what depends on its controls.
        "command": export_command(
            study,
            problem=problem.title,
            preference="PREFERENCE",
            algorithms=["ALGORITHM"],
            budget=section.budget if section.other_budgets else None,
        ),
    }


def _references(section: Section) -> list[dict[str, Any]]:
    problem = section.problem
    values = {split: section.references(split) for split in problem.splits}
    names = list(values["search"])
    experts = [name for name in problem.anchors["search"] if name != "base"]
    found = []
    for name, look in reference_looks(names, experts).items():
        kind = "base" if name == "base" else "expert" if name in experts else "control"
        found.append(
            {
                "name": name,
                "label": f"{name} (expert)" if kind == "expert" else name,
                "kind": kind,
                "symbol": look.symbol,
                **{split: values[split][name].tolist() for split in problem.splits},
            }
        )
    return found


def _algorithms(section: Section) -> list[dict[str, Any]]:
    styles = looks(list(section.names))
    progress = {axis: bands(section, axis) for axis in AXES}
    found = []
    for algorithm in section.algorithms:
        look = styles[algorithm]
        found.append(
            {
                "algorithm": algorithm,
                "name": section.names[algorithm],
                "color": look.color,
                "dark": look.dark,
                "symbol": look.symbol,
                "models": _models(section, algorithm),
                "progress": {axis: _band(progress[axis][algorithm]) for axis in AXES},
            }
        )
    return found


def _models(section: Section, algorithm: str) -> list[dict[str, Any]]:
    front = section.front(algorithm)
    if front is None:
        return []
    F = front.normalized("search")
    sums = F.sum(axis=1)
    rows = []
    for i, label in enumerate(front.labels):
        row: dict[str, Any] = {
            "label": label,
            "F": F[i].tolist(),
            "sum": float(sums[i]),
            # A fine-tuned model is no merge.
            "x": [] if front.folder(i) else _short(front.X[i]),
            # Searched parameters as they are, not as variables.
            "parameters": {
                name: shown(values[i])
                for name, values in front.parameters.items()
                if not front.folder(i)
            },
            "folder": front.folder(i),
            "cost": float(front.cost[i]),
        }
        rows.append(row | {split: front.values(split)[i].tolist() for split in front.splits})
    return rows


def _band(band: Any) -> dict[str, Any]:
    whole = np.flatnonzero(band.running == band.n_runs)
    return {
        "x": _short(band.x),
        "median": _short(band.median),
        "lower": _short(band.lower),
        "upper": _short(band.upper),
        # Up to here all runs went on.
        "whole": int(whole.max(initial=0)) + 1,
    }


def _short(values: Any) -> list[float]:
    return [float(f"{v:.{_DIGITS}g}") for v in values]
