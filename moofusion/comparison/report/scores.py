"""What the report says about a problem, as numbers: every run scored against the same front."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moofusion.comparison.anytime import anytime_hypervolume
from moofusion.comparison.curves import Curve
from moofusion.comparison.front import Front
from moofusion.comparison.indicators import SetIndicators, pooled_front, set_indicators
from moofusion.comparison.pooled import pooled_result
from moofusion.comparison.quality import REFERENCE, Backend
from moofusion.comparison.study_data import ProblemData, RunData, StudyData

__all__ = ["AXES", "RunScore", "Section", "sections", "short_names"]

Array = NDArray[np.float64]

#: What an anytime curve can be drawn against, and what its axis is called.
AXES = {"evaluations": "evaluations", "cost": "cost units (samples)", "seconds": "device seconds"}


@dataclass(frozen=True)
class RunScore:
    """All indicators of one run.

    Attributes:
        run: The run.
        archive: All its non-dominated evaluations, on search.
        final: The set that the algorithm returned, on search.
        reported: By split, the front that was measured on test (all of the archive, or thinned).
    """

    run: RunData
    archive: SetIndicators
    final: SetIndicators
    reported: dict[str, SetIndicators]

    @property
    def gap(self) -> float | None:
        """Hypervolume on search minus hypervolume on test, of the same models."""
        if "test" not in self.reported:
            return None
        return self.reported["search"].hypervolume - self.reported["test"].hypervolume


@dataclass(frozen=True)
class Section:
    """One problem under one budget, with all finished runs.

    Attributes:
        data: The study.
        problem: The problem.
        budget: The budget of the runs, such as ``"evaluations=200"``.
        title: What it is called in the report.
        slug: The same for file names.
        runs: Finished runs, by algorithm and seed.
        names: Short name of each algorithm, in order.
        other_budgets: Whether the study holds runs of this problem under other budgets.
    """

    data: StudyData
    problem: ProblemData
    budget: str
    title: str
    slug: str
    runs: tuple[RunData, ...]
    names: dict[str, str]
    other_budgets: bool

    @property
    def split(self) -> str:
        """The split that results are reported on."""
        return self.problem.splits[-1]

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Algorithms with finished runs, in order."""
        return tuple(dict.fromkeys(run.cell.algorithm for run in self.runs))

    def of(self, algorithm: str) -> list[RunData]:
        """Runs of an algorithm, by seed."""
        return [run for run in self.runs if run.cell.algorithm == algorithm]

    def reported(self, run: RunData, split: str) -> Array:
        """Normalized objectives of the reported front of a run."""
        return self.problem.normalized(run.reported_values(split), split)

    @cached_property
    def pooled(self) -> dict[str, Array]:
        """Pooled front on each split."""
        fronts = {"search": pooled_front([run.normalized[run.front] for run in self.runs])}
        if self.problem.held_out:
            fronts["test"] = pooled_front([self.reported(run, "test") for run in self.runs])
        return fronts

    @cached_property
    def scores(self) -> tuple[RunScore, ...]:
        """Every run, scored against the pooled fronts, with one backend for each split."""
        runs, n = self.runs, len(self.runs)
        archives = [run.normalized[run.front] for run in runs]
        finals = [run.normalized[run.final[run.usable[run.final]]] for run in runs]
        sets = [*archives, *finals, *(self.reported(run, "search") for run in runs)]
        on_search = _indicators(sets, self.pooled["search"])
        reported: list[dict[str, SetIndicators]] = [{"search": s} for s in on_search[2 * n :]]
        if self.problem.held_out:
            sets = [self.reported(run, "test") for run in runs]
            for found, s in zip(reported, _indicators(sets, self.pooled["test"]), strict=True):
                found["test"] = s
        rows = zip(runs, on_search[:n], on_search[n : 2 * n], reported, strict=True)
        return tuple(RunScore(*row) for row in rows)

    def values(self, algorithm: str, value: Callable[[RunScore], float | None]) -> list[float]:
        """One number per run of an algorithm, by seed; NaN for None."""
        found = [value(s) for s in self.scores if s.run.cell.algorithm == algorithm]
        return [float("nan") if v is None else float(v) for v in found]

    def hypervolumes(self, algorithm: str, split: str | None = None) -> list[float]:
        """Normalized hypervolume of each run's reported front."""
        return self.values(algorithm, lambda s: s.reported[split or self.split].hypervolume)

    def typical(self, algorithm: str) -> RunData:
        """The run of median hypervolume (of an even number, the lower of the middle two)."""
        order = np.argsort(self.hypervolumes(algorithm), kind="stable")
        return self.of(algorithm)[int(order[(len(order) - 1) // 2])]

    def backend(self, split: str | None = None) -> Backend:
        """How hypervolumes of a split were computed."""
        return self.scores[0].reported[split or self.split].backend

    @cached_property
    def _curves(self) -> tuple[Curve, ...]:
        # Values of evaluations that do not count must be finite, whatever they are.
        runs = [np.where(run.usable[:, None], run.normalized, 0.0) for run in self.runs]
        return anytime_hypervolume(
            runs, usable=[run.usable for run in self.runs], reference=REFERENCE
        )

    def curves(self, algorithm: str, axis: str) -> list[Curve]:
        """Anytime hypervolume on the search split of each run, against one of :data:`AXES`."""
        found = []
        for run, curve in zip(self.runs, self._curves, strict=True):
            if run.cell.algorithm == algorithm:
                costs = {"cost": run.cost, "seconds": run.device_seconds}
                found.append(curve.over(costs[axis], AXES[axis]) if axis in costs else curve)
        return found

    def front(self, algorithm: str | None = None) -> Front | None:
        """What all runs, or those of an algorithm, found together: as ``export`` chooses from.

        Labels name the first run that reported the model. None where no run has a front.
        """
        runs = self.runs if algorithm is None else self.of(algorithm)
        if not any(len(run.reported) for run in runs):
            return None
        # Another problem of the study may have the same title.
        alone = replace(self.data, problems={self.problem.fingerprint: self.problem})
        picked = () if algorithm is None else (algorithm,)
        front = pooled_result(alone, algorithms=picked, budget=self.budget).front
        origins = {
            (
                run.X[i].tobytes(),
                run.folders[i],
            ): f"{self.names[run.cell.algorithm]}, seed {run.cell.seed}, evaluation {i + 1}"
            for run in reversed(runs)
            for i in run.reported[::-1]
        }
        labels = [origins[x.tobytes(), front.folder(i)] for i, x in enumerate(front.X)]
        return replace(front, labels=tuple(labels))

    def references(self, split: str) -> dict[str, Array]:
        """Metric values of base, experts and controls on a split, shape ``(M,)`` each."""
        models = {**self.problem.anchors[split], **self.problem.controls[split]}
        return {name: self.problem.values(row)[0] for name, row in models.items()}


def _indicators(sets: Sequence[Array], pooled: Array) -> tuple[SetIndicators, ...]:
    """Indicators of all sets; where every set is empty there is nothing to compare with."""
    if len(pooled):
        return set_indicators(sets, pooled=pooled)
    nan, M = float("nan"), pooled.shape[1]
    empty = SetIndicators(0.0, nan, nan, nan, 0, (0.0,) * M, "exact", (REFERENCE,) * M)
    return (empty,) * len(sets)


def sections(data: StudyData) -> list[Section]:
    """Every problem under every budget that has finished runs, in the order of the study."""
    done = [run for run in data.runs if run.cell.status == "done" and len(run.X)]
    names = short_names(list(dict.fromkeys(run.cell.algorithm for run in done)))
    found: list[Section] = []
    for problem in data.problems.values():
        runs = [run for run in done if run.problem is problem]
        budgets = list(dict.fromkeys(run.cell.budget for run in runs))
        for budget in budgets:
            title = problem.title if len(budgets) == 1 else f"{problem.title}, {budget}"
            slug = _slug(title, [section.slug for section in found])
            picked = tuple(run for run in runs if run.cell.budget == budget)
            found.append(
                Section(data, problem, budget, title, slug, picked, names, len(budgets) > 1)
            )
    return found


def short_names(algorithms: Sequence[str]) -> dict[str, str]:
    """Names without parameters, where that leaves no doubt.

    Example:
        >>> short_names(["nsga2:pop_size=6", "random", "soup:scale=1", "soup:scale=2"])["random"]
        'random'
        >>> list(short_names(["nsga2:pop_size=6", "soup:scale=1", "soup:scale=2"]).values())
        ['nsga2', 'soup:scale=1', 'soup:scale=2']
    """
    stems = [algorithm.partition(":")[0] for algorithm in algorithms]
    return {
        algorithm: stem if stems.count(stem) == 1 else algorithm
        for algorithm, stem in zip(algorithms, stems, strict=True)
    }


def _slug(title: str, taken: Sequence[str]) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "problem"
    number = 2
    unique = slug
    while unique in taken:
        unique, number = f"{slug}-{number}", number + 1
    return unique
