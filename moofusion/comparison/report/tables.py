"""The tables of one problem: algorithms, single models, tests between algorithms, timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moofusion.comparison.pairwise import PairTest, PairwiseTests, pairwise_tests
from moofusion.comparison.quality import REFERENCE, backend_text, hypervolume
from moofusion.comparison.report.scores import RunScore, Section
from moofusion.comparison.report.table import Column, Table
from moofusion.comparison.statistics import SampleSummary, summarize
from moofusion.comparison.study_data import RunData

__all__ = [
    "HELD_OUT_MISSING",
    "algorithms_table",
    "holm_columns",
    "holm_values",
    "models_table",
    "pairwise_table",
    "problem_tables",
    "problems_table",
    "scale_notes",
    "timing_table",
]

HELD_OUT_MISSING = "No held-out test split: all values are those the search saw."

# Algorithms against which every other one is to be seen.
_CONTROLS = {"random": "random search", "soup": "rewarded soup"}
# With more algorithms all pairs are too many to read.
_MOST_IN_PAIRS = 8
# Differences of approximated hypervolumes below this share are not interpreted.
_RESOLUTION = 1e-3


def problem_tables(section: Section) -> list[Table]:
    """All tables of a problem."""
    found = [algorithms_table(section), models_table(section)]
    if len(section.algorithms) > 1:
        found.append(pairwise_table(section))
    return [*found, timing_table(section)]


def scale_notes(section: Section) -> tuple[str, ...]:
    """How objectives are normalized, the reference point, the backend, and what is missing."""
    n_obj = len(section.problem.tasks)
    point = ", ".join([f"{REFERENCE:g}"] * n_obj)
    notes = [
        "Objective j is normalized by the anchors (base and experts) of the same split: "
        "f_j = (o_j - best anchor_j) / (worst anchor_j - best anchor_j), where o_j is to be "
        f"minimized ({_objectives(section)}). Hypervolume: reference point ({point}); points "
        "beyond it add nothing; a model as good as the best anchor in every objective has "
        f"{REFERENCE**n_obj:.4g}. Computed: {backend_text(section.backend())}.",
    ]
    if not section.problem.held_out:
        notes.append(HELD_OUT_MISSING)
    return tuple(notes)


def _objectives(section: Section) -> str:
    pairs = zip(section.problem.tasks, section.problem.objectives, strict=True)
    return ", ".join(f"{task}: {metric.objective_name}" for task, metric in pairs)


def algorithms_table(section: Section) -> Table:
    """Hypervolume, indicators against the pooled front, set sizes and cost, over seeds."""
    problem, split = section.problem, section.split
    columns: list[Column] = [
        Column("algorithm", "algorithm", "text"),
        Column("seeds", "seeds", "count"),
    ]
    makers: list[Callable[[str], Any]] = [lambda a: section.names[a], lambda a: len(section.of(a))]

    def add(column: Column, make: Callable[[str], Any]) -> None:
        columns.append(column)
        makers.append(make)

    def add_value(
        key: str, head: str, value: Callable[[RunScore], float | None], **options: Any
    ) -> None:
        add(
            Column(key, head, "spread", **options),
            lambda a: _spread(_summary(section.values(a, value))),
        )

    for part in problem.splits:

        def volume(s: RunScore, part: str = part) -> float:
            return s.reported[part].hypervolume

        add_value(f"hv_{part}", f"HV {part}", volume, better="max")
        add(
            Column(f"hv_{part}_iqm", f"HV {part}, IQM [95 %]", "interval", better="max"),
            lambda a, value=volume: _interval(_summary(section.values(a, value))),  # type: ignore[misc]
        )
    if problem.held_out:
        add_value("gap", "gap", lambda s: s.gap)
    add_value("hv_archive", "HV search, archive", lambda s: s.archive.hypervolume, panel=1)
    add_value("hv_final", "HV search, final set", lambda s: s.final.hypervolume, panel=1)
    add_value(
        "relative_hv",
        "relative HV",
        lambda s: s.reported[split].relative_hypervolume,
        better="max",
        panel=1,
    )
    add_value("igd_plus", "IGD+", lambda s: s.reported[split].igd_plus, better="min", panel=1)
    add_value("epsilon", "epsilon", lambda s: s.reported[split].epsilon, better="min", panel=1)
    add(
        Column("points_archive", "points, archive", "count", panel=2),
        lambda a: _mean(section.values(a, lambda s: s.archive.n_points)),
    )
    add(
        Column("points_final", "points, final set", "count", panel=2),
        lambda a: _mean(section.values(a, lambda s: s.final.n_points)),
    )
    listed = ", ".join(problem.tasks)
    extent = f"extent ({listed})" if len(problem.tasks) <= 3 else "extent of each objective"
    add(
        Column("extent", extent, "several", digits=2, parts=problem.tasks, panel=2),
        lambda a: tuple(
            _mean(section.values(a, lambda s, j=j: s.reported[split].extents[j]))  # type: ignore[misc]
            for j in range(len(problem.tasks))
        ),
    )
    add(
        Column("evaluations", "evaluations", "count", panel=2),
        lambda a: _mean([len(run.X) for run in section.of(a)]),
    )
    add(
        Column("cost", "cost units", "count", panel=2),
        lambda a: _mean([float(run.cost.sum()) for run in section.of(a)]),
    )
    return Table(
        f"{section.slug}-algorithms",
        f"{section.title}: algorithms",
        tuple(columns),
        tuple(tuple(make(a) for make in makers) for a in section.algorithms),
        (*scale_notes(section), *_reading_notes(section)),
    )


def _reading_notes(section: Section) -> list[str]:
    fronts = "HV is that of the front found on search (all non-dominated evaluations)"
    if section.problem.held_out:
        fronts += ", the same models measured on test; gap: search minus test"
    thinned = section.problem.held_out and any(
        len(run.reported) < len(run.front) for run in section.runs
    )
    ran = {algorithm.partition(":")[0] for algorithm in section.algorithms}
    absent = [text for name, text in _CONTROLS.items() if name not in ran]
    return [
        *([f"Controls that this study did not run: {', '.join(absent)}."] if absent else []),
        f"{fronts}. Final set: what the algorithm itself returned. Mean ± standard deviation over "
        "seeds; IQM: interquartile mean with its bootstrap interval. Bold: best value, which says "
        "nothing of significance.",
        *(["Large fronts were thinned before; 'archive' is the whole of them."] if thinned else []),
        f"Relative HV, IGD+ and additive epsilon are taken on {section.split} against the pooled "
        "front: the non-dominated points of all runs on the problem, not the true front. "
        "Extent: range of the front in each normalized objective. Cost unit: one forward sample "
        "(backward: two more).",
        _pooled_note([section]),
    ]


def _pooled_note(sections: Sequence[Section]) -> str:
    listed = ", ".join(f"{len(s.pooled[s.split])} ({s.title})" for s in sections)
    return f"Points of the pooled front: {listed}."


def problems_table(sections: Sequence[Section]) -> Table | None:
    """One row for each problem, where one algorithm ran on several of the same objectives.

    None where there is more to tell apart than problems.
    """
    tables = [algorithms_table(section) for section in sections]
    names = {section.names[a] for section in sections for a in section.algorithms}
    if len(sections) < 2 or len(names) > 1 or len({table.columns for table in tables}) > 1:
        return None
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    for section in sections:
        del notes[_pooled_note([section])]
    return Table(
        "problems",
        f"{names.pop()} on each problem",
        (Column("problem", "problem", "text"), *tables[0].columns[1:]),
        tuple((s.title, *t.rows[0][1:]) for s, t in zip(sections, tables, strict=True)),
        (*notes, _pooled_note(sections)),
    )


def models_table(section: Section) -> Table:
    """Base, experts and the merges that need no search, as single points."""
    problem, split = section.problem, section.split
    columns = [Column("model", "model", "text")]
    for part in reversed(problem.splits):
        columns += [
            Column(
                f"{task}:{part}",
                f"{task}: {metric.name}{' %' if metric.percent else ''}",
                digits=1 if metric.percent else 4,
                scale=100.0 if metric.percent else 1.0,
                better="max" if metric.direction == "max" else "min",
                panel=0 if part == split else None,
            )
            for task, metric in zip(problem.tasks, problem.objectives, strict=True)
        ]
    columns += [Column(f"hv_{part}", f"HV {part}", better="max") for part in problem.splits]
    values = {part: section.references(part) for part in problem.splits}
    rows = []
    for name in values[split]:
        row: list[Any] = [f"{name} (expert)" if name in _experts(section) else name]
        for part in reversed(problem.splits):
            row += values[part][name].tolist()
        for part in problem.splits:
            F = problem.normalized(values[part][name][None], part)
            row.append(hypervolume(F, reference=REFERENCE, backend=section.backend(part)))
        rows.append(tuple(row))
    note = f"Metrics on the {split} split; HV: hypervolume of the single model."
    return Table(
        f"{section.slug}-models",
        f"{section.title}: base, experts and merges without search",
        tuple(columns),
        tuple(rows),
        (note, *scale_notes(section)),
    )


def _experts(section: Section) -> set[str]:
    return set(section.problem.anchors[section.split]) - {"base"}


def pairwise_table(section: Section) -> Table:
    """Tests between algorithms on the hypervolume, corrected by Holm.

    All pairs, or each against a control (random search, else rewarded soup) where there are more
    than eight algorithms, or where so many runs can show nothing of all pairs and something of
    these: their numbers alone decide.
    """
    n = len(section.algorithms)
    tests, control = _tests(section), _control_of(section)
    least = min(pair.smallest_p for pair in tests.pairs)
    hopeless = least * (n - 1) <= tests.alpha < least * len(tests.pairs)
    if control is not None and (n > _MOST_IN_PAIRS or hopeless):
        tests = _tests(section, control)
    else:
        control = None
    columns = (
        Column("first", "first", "text"),
        Column("second", "second", "text"),
        Column("test", "test", "text"),
        Column("n", "n", "text"),
        Column("median_difference", "median difference"),
        Column("a12", "A12", digits=2),
        *holm_columns(tests),
    )
    rows = tuple(
        (
            section.names[pair.first],
            section.names[pair.second],
            pair.test,
            "/".join(str(n) for n in dict.fromkeys(pair.n)),
            pair.difference,
            pair.effect,
            *holm_values(tests, pair),
        )
        for pair in tests.pairs
    )
    notes = (
        f"Hypervolume on {section.split} over seeds; {tests.caption}. A12: chance that a run of "
        "the first is better than one of the second (0.5: equal; from 0.71 or 0.29 on a large "
        "effect).",
        *(f"{note[0].upper()}{note[1:]}." for note in tests.notes),
    )
    title = f"{section.title}: algorithms against each other"
    if control is not None:
        title = f"{section.title}: algorithms against {section.names[control]}"
        only = (
            f"Of the {n * (n - 1) // 2} pairs of {n} algorithms those with the control are tested "
            "alone, so that the correction leaves something to be shown."
        )
        notes = (*notes, only)
    return Table(f"{section.slug}-pairwise", title, columns, rows, notes)


def _tests(section: Section, control: str | None = None) -> PairwiseTests:
    return pairwise_tests(
        {a: section.hypervolumes(a) for a in section.algorithms},
        seeds={a: [run.cell.seed for run in section.of(a)] for a in section.algorithms},
        resolution=_RESOLUTION if section.backend() == "approximate" else 0.0,
        control=control,
    )


def _control_of(section: Section) -> str | None:
    names = {algorithm.partition(":")[0]: algorithm for algorithm in section.algorithms}
    return next((names[name] for name in _CONTROLS if name in names), None)


def holm_columns(tests: PairwiseTests) -> tuple[Column, ...]:
    """Columns of what a family of tests concluded: p, corrected p, verdict."""
    return (
        Column("p", "p"),
        Column("p_holm", f"p (Holm, family of {tests.family_size})"),
        Column("verdict", f"at level {tests.alpha:g}", "text"),
    )


def holm_values(tests: PairwiseTests, pair: PairTest) -> tuple[float, float, str]:
    """Values of :func:`holm_columns` for one pair."""
    verdict = "no difference shown"
    if tests.differ(pair.first, pair.second):
        verdict = "significantly better" if pair.effect > 0.5 else "significantly worse"
    return pair.p, pair.p_adjusted, verdict


def timing_table(section: Section) -> Table:
    """Seconds, which no two machines have in common, apart from everything else."""
    seconds: dict[str, tuple[str, Callable[[RunData], float]]] = {
        "wall": ("whole search, wall clock", lambda run: float(run.elapsed[-1])),
        "device": ("on the device", lambda run: float(run.device_seconds.sum())),
        "optimizer": ("the optimizer itself", lambda run: run.optimizer_seconds),
    }
    columns = [Column("algorithm", "algorithm", "text")]
    columns += [
        Column(f"{key}_seconds", head, "spread", digits=2) for key, (head, _) in seconds.items()
    ]
    rows = tuple(
        (
            section.names[a],
            *(_spread(_summary([of(run) for run in section.of(a)])) for _, of in seconds.values()),
        )
        for a in section.algorithms
    )
    notes = (
        "Seconds per run, mean ± standard deviation over seeds. Device seconds: merging and "
        "forward passes as they took when a model was first measured, also where a run took it "
        "from the cache; such a run is quicker by the clock.",
    )
    title = f"{section.title}: seconds"
    return Table(f"{section.slug}-timing", title, tuple(columns), rows, notes, timed=True)


def _summary(values: Sequence[float]) -> SampleSummary | None:
    """None where a run has no value: a mean of the others would flatter it."""
    return summarize(values) if np.isfinite(values).all() else None


def _spread(summary: SampleSummary | None) -> tuple[float, float] | None:
    return None if summary is None else (summary.mean, summary.std)


def _interval(summary: SampleSummary | None) -> tuple[float, float, float] | None:
    return None if summary is None else (summary.iqm, summary.iqm_low, summary.iqm_high)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
