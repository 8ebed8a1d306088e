"""Trained routers of a study, for the page: what they make of a preference, and their command."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from moofusion.algorithms.pwemoe import ParetoRouter
from moofusion.comparison.cell_files import router_file
from moofusion.comparison.report.commands import router_command
from moofusion.comparison.report.scores import Section
from moofusion.comparison.study_data import RunData
from moofusion.errors import RunError

__all__ = ["router_data"]


def router_data(section: Section, study: str | Path) -> list[dict[str, Any]]:
    """One router of each algorithm that trained any: that of the median run where it is kept.

    The page evaluates the small networks itself, so all digits are here. Routers that ignore the
    preference are left out; a file that cannot be read is, with a warning.

    Args:
        section: The problem.
        study: The store of the study, as commands are to name it.
    """
    found = []
    for algorithm in section.algorithms:
        typical = section.typical(algorithm)
        runs = [typical, *(run for run in section.of(algorithm) if run is not typical)]
        kept = [run for run in runs if router_file(section.data.path, run.cell).is_file()]
        if not kept:
            continue
        try:
            router = ParetoRouter.load(router_file(section.data.path, kept[0].cell))
        except RunError as error:
            warnings.warn(f"a router is left out: {error}", UserWarning, stacklevel=2)
            continue
        if router.conditioned and router.tasks == section.problem.tasks:
            found.append(_entry(section, kept[0], router, study))
    return found


def _entry(
    section: Section, run: RunData, router: ParetoRouter, study: str | Path
) -> dict[str, Any]:
    parts = router.network.split(router.theta)
    layers = [
        {"W": parts[f"W{i}"].tolist(), "b": parts[f"b{i}"].tolist()}
        for i in range(1, len(router.network.widths))
    ]
    points = [
        {
            "x": run.X[index].tolist(),
            **{
                split: run.reported_values(split)[place].tolist()
                for split in section.problem.splits
            },
        }
        for place, index in enumerate(run.reported)
    ]
    return {
        "algorithm": run.cell.algorithm,
        "label": f"{section.names[run.cell.algorithm]}, seed {run.cell.seed}",
        "names": list(router.names),
        "rows": router.rows.tolist(),
        "experts": list(router.experts),
        "static": router.static.tolist(),
        "layers": layers,
        # Proposals of the training that were measured.
        "points": points,
        "command": router_command(router_file(Path(study), run.cell), preference="PREFERENCE"),
    }
