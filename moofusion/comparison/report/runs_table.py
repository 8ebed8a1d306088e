"""Every run with all its indicators: the numbers under the tables."""

from __future__ import annotations

from moofusion.comparison.indicators import SetIndicators
from moofusion.comparison.report.scores import Section
from moofusion.comparison.report.table import Column, Table

__all__ = ["runs_table"]

_INDICATORS = (
    "hypervolume",
    "relative_hypervolume",
    "igd_plus",
    "epsilon",
    "n_points",
)


def runs_table(sections: list[Section]) -> Table:
    """One row per run, all digits."""
    keys = ("problem", "fingerprint", "algorithm", "seed", "budget", "evaluations", "cost")
    sets = ("archive", "final", "reported_search", "reported_test")
    columns = [Column(key, key, "text") for key in keys]
    columns += [Column(f"{s}:{name}", name, "text") for s in sets for name in _INDICATORS]
    rows = []
    for section in sections:
        for score in section.scores:
            run = score.run
            row: list[object] = [
                section.problem.title,
                section.problem.fingerprint,
                run.cell.algorithm,
                run.cell.seed,
                run.cell.budget,
                len(run.X),
                float(run.cost.sum()),
            ]
            for found in (
                score.archive,
                score.final,
                score.reported["search"],
                score.reported.get("test"),
            ):
                row += _values(found)
            rows.append(tuple(row))
    return Table("runs", "All runs", tuple(columns), tuple(rows))


def _values(found: SetIndicators | None) -> list[object]:
    return [None if found is None else getattr(found, name) for name in _INDICATORS]
