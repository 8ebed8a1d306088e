"""The pooled front of a study: the best models that any of its runs found, ready for export."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moofusion.comparison.front import Front, PointSet
from moofusion.comparison.quality import nondominated
from moofusion.comparison.result import SearchResult
from moofusion.comparison.study_data import ProblemData, RunData, StudyData
from moofusion.errors import RunError, UnknownNameError
from moofusion.merging.searched import values_of

__all__ = ["pooled_result"]


def pooled_result(
    data: StudyData,
    problem: str | None = None,
    *,
    algorithms: Sequence[str] = (),
    budget: str | None = None,
) -> SearchResult:
    """What all runs of a study on one problem found together.

    Args:
        data: The study.
        problem: Title or fingerprint of the problem; may be left out where there is one.
        algorithms: Take models of these algorithms only.
        budget: Take models of runs under this budget only.

    Raises:
        UnknownNameError: There is no problem of that title, or no run of that algorithm.
        RunError: No finished run has a front, or several problems have that title.

    Example:
        >>> import tempfile
        >>> from moofusion.comparison import Study
        >>> from moofusion.testing import toy_problem
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Study(toy_problem(("a", "b")), ["random", "soup"], seeds=1, evaluations=4,
        ...               controls=False, store=f"{folder}/study.db").run(threads=1)
        ...     result = pooled_result(StudyData.read(f"{folder}/study.db"))
        >>> result.settings["algorithm"], result.evaluated.shape
        ('random, soup', (8, 2))
    """
    chosen = _problem(data, problem)
    runs = data.of(chosen)
    for algorithm in algorithms:
        if algorithm not in data.algorithms(chosen):
            raise UnknownNameError("algorithm of this study", algorithm, data.algorithms(chosen))
    runs = [
        run
        for run in runs
        if (not algorithms or run.cell.algorithm in algorithms)
        and budget in (None, run.cell.budget)
        and len(run.reported)
    ]
    if not runs:
        raise RunError(f"no finished run on {chosen.title!r} has a front yet")
    front = _front(chosen, runs)
    names = dict.fromkeys(run.cell.algorithm for run in runs)
    settings = {
        "problem": chosen.title,
        "tasks": list(chosen.tasks),
        "algorithm": ", ".join(names),
        "evaluations": sum(len(run.X) for run in runs),
        "seed": ", ".join(str(seed) for seed in dict.fromkeys(run.cell.seed for run in runs)),
        "fingerprint": chosen.fingerprint,
        "held_out_test": chosen.held_out,
        "spec": chosen.spec,
    }
    evaluated = np.vstack([run.values for run in runs])
    seconds = sum(float(run.elapsed[-1]) for run in runs)
    return SearchResult(front, _references(chosen), evaluated, settings, seconds)


def _problem(data: StudyData, title: str | None) -> ProblemData:
    problems = list(data.problems.values())
    found = [p for p in problems if title in (None, p.title, p.fingerprint)]
    if not found or (title is None and len(found) > 1):
        titles = [p.title for p in problems]
        raise UnknownNameError("problem of this study", title, titles, hint="Give --problem.")
    if len(found) > 1:
        prints = ", ".join(p.fingerprint for p in found)
        raise RunError(
            f"{len(found)} problems of this study are called {title!r}; name one by its "
            f"fingerprint: {prints}"
        )
    return found[0]


def _front(problem: ProblemData, runs: Sequence[RunData]) -> Front:
    X = np.vstack([run.X[run.reported] for run in runs])
    search = np.vstack([run.reported_values("search") for run in runs])
    test = np.vstack([run.reported_values("test") for run in runs]) if problem.held_out else None
    cost = np.concatenate([run.cost[run.reported] for run in runs])
    folders = [run.folders[i] for run in runs for i in run.reported]
    F = problem.normalized(search, "search")
    kept = np.flatnonzero(nondominated(F))
    kept = kept[np.lexsort(F[kept].T[::-1])]
    return Front(
        tuple(str(i + 1) for i in range(len(kept))),
        problem.tasks,
        problem.objectives,
        search[kept],
        None if test is None else test[kept],
        problem.scales["search"],
        problem.scales.get("test"),
        X[kept],
        problem.variables,
        cost[kept],
        tuple(folders[i] for i in kept) if any(folders) else (),
        values_of(problem.searched, problem.variables, X[kept]),
    )


def _references(problem: ProblemData) -> PointSet:
    def values(split: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        rows = [*problem.anchors[split].values(), *problem.controls[split].values()]
        return problem.values(np.array(rows))

    return PointSet(
        (*problem.anchors["search"], *problem.controls["search"]),
        problem.tasks,
        problem.objectives,
        values("search"),
        values("test") if problem.held_out else None,
        problem.scales["search"],
        problem.scales.get("test"),
    )
