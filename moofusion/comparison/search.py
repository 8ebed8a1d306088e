"""The main job: search one problem with one algorithm, measure the front on test, keep it all."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.algorithm import Algorithm
from pymoo.optimize import minimize

from moofusion.algorithms.pwemoe import PWEMoE
from moofusion.algorithms.registry import get_algorithm
from moofusion.algorithms.scalarization import Scalarization
from moofusion.comparison.front import Front, PointSet, metric_table
from moofusion.comparison.log import EvaluationLog
from moofusion.comparison.quality import REFERENCE, hypervolume, nondominated
from moofusion.comparison.result import SearchResult
from moofusion.comparison.run_folder import (
    ROUTER,
    TESTED,
    TRAINING,
    mark_finished,
    prepare_folder,
    run_settings,
)
from moofusion.errors import ConfigurationError, RunError
from moofusion.merging.searched import values_of
from moofusion.problems import Evaluation, MergeProblem
from moofusion.progress import search_progress

__all__ = ["search"]

Array = NDArray[np.float64]

#: ``progress(stage, done, total, hypervolume)``; the stages are ``"anchors"`` (by split),
#: ``"search"`` and ``"test"`` (by evaluation).
Progress = Callable[[str, int, int, float], None]


def search(
    problem: MergeProblem,
    algorithm: str | Algorithm = "nsga2",
    *,
    evaluations: int = 200,
    seed: int = 1,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    verbose: bool = False,
    command: str | None = None,
) -> SearchResult:
    """Search a problem and measure what was found.

    The optimizer sees the search split alone. The front is every non-dominated candidate of the
    run; it is measured on the test split afterwards, once.

    Args:
        problem: What to search.
        algorithm: Name with parameters (``"nsga2:pop_size=20"``) or a pymoo algorithm.
        evaluations: Budget; an algorithm may finish the generation in which it is reached.
        seed: Seed of the algorithm.
        out: Folder for the log and the results; nothing is written without one.
        resume: Continue the run in `out`; with more evaluations than it had, go on from where
            it ended, where the algorithm does not plan with its whole budget.
        force: Replace the run in `out`.
        progress: Called with the stage, what is done of it and in all, and the hypervolume.
        verbose: Show bars, where no `progress` is given.
        command: Command line that does the same, for the summary.

    Raises:
        RunError: `out` exists, cannot be resumed, or belongs to another run.
        ConfigurationError: A wrong algorithm, budget or seed, or both `resume` and `force`.

    Example:
        >>> from moofusion.testing import toy_problem
        >>> found = search(toy_problem(), "nsga2:pop_size=10", evaluations=30, seed=1)
        >>> found.evaluated.shape
        (30, 3)
        >>> 0 < found.hypervolume("test") < 1.1**3
        True
    """
    if evaluations < 1:
        raise ConfigurationError(f"evaluations must be positive, got {evaluations}")
    if seed < 0:
        raise ConfigurationError(f"the seed must be 0 or more, got {seed}")
    if resume and force:
        raise ConfigurationError("resume continues a run and force replaces it; give one of them")
    name = algorithm if isinstance(algorithm, str) else type(algorithm).__name__
    made = get_algorithm(algorithm, problem) if isinstance(algorithm, str) else algorithm
    settings = run_settings(problem, name, evaluations, seed, command)
    folder = Path(out) if out is not None else None
    if folder is not None:
        settings = prepare_folder(folder, settings, resume=resume, force=force)
        if isinstance(algorithm, str) and isinstance(made, PWEMoE | Scalarization):
            made.checkpoint = folder / TRAINING
    with search_progress() if verbose and progress is None else nullcontext(progress) as shown:
        return _run(problem, made, settings, folder, shown)


def _run(
    problem: MergeProblem,
    algorithm: Algorithm,
    settings: dict[str, Any],
    folder: Path | None,
    progress: Progress | None,
) -> SearchResult:
    """Search within the settings, measure what was found, keep it in the folder."""
    evaluations = settings["evaluations"]
    _measure_anchors(problem, progress)
    started = time.perf_counter()
    with (
        EvaluationLog(folder / "evaluations.csv" if folder else None, problem) as log,
        warnings.catch_warnings(),
        _Reporter(problem, log, evaluations, progress),
    ):
        budget = ("n_eval", evaluations)
        ran = minimize(problem, algorithm, budget, seed=settings["seed"]).algorithm
    seconds = time.perf_counter() - started + log.replayed_seconds
    found = _collect(problem, log, settings, seconds, folder, progress)
    if folder is not None:
        if isinstance(ran, PWEMoE) and ran.router is not None:
            ran.router.save(folder / ROUTER)
        found.save(folder)
        mark_finished(folder, found)
    return found


def _measure_anchors(problem: MergeProblem, progress: Progress | None) -> None:
    """Measure base and experts on every split now: what cannot be measured shows at once."""
    splits = _splits(problem)
    for done, split in enumerate(splits):
        if progress is not None:
            progress("anchors", done, len(splits), float("nan"))
        problem.anchors(split)
    if progress is not None:
        progress("anchors", len(splits), len(splits), float("nan"))


class _Reporter:
    """Passes every evaluation on to the caller, with the hypervolume so far."""

    def __init__(
        self, problem: MergeProblem, log: EvaluationLog, total: int, progress: Progress | None
    ) -> None:
        self.problem, self.log, self.total, self.progress = problem, log, total, progress
        self._front: Array | None = None

    def __enter__(self) -> _Reporter:
        if self.progress is not None:
            self.progress("search", 0, self.total, 0.0)
            self.problem.observers.append(self._observe)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.progress is not None:
            self.problem.observers.remove(self._observe)

    def _observe(self, x: Array, evaluation: Evaluation, cached: bool) -> None:
        assert self.progress is not None
        F = self.problem.normalize(self.problem.objectives([evaluation]))
        pool = F if self._front is None else np.vstack([self._front, F])
        self._front = pool[nondominated(pool)]
        done = len(self.log)
        value = hypervolume(self._front, reference=REFERENCE)
        self.progress("search", done, max(self.total, done), value)


def _collect(
    problem: MergeProblem,
    log: EvaluationLog,
    settings: dict[str, Any],
    seconds: float,
    folder: Path | None,
    progress: Progress | None,
) -> SearchResult:
    """Front of the log and references, on both splits."""
    F = log.objectives()
    allowed = problem.feasible(log.evaluations)
    allowed &= np.array([not evaluation.failed for evaluation in log.evaluations], bool)
    if not allowed.any():
        raise RunError(
            f"none of the {len(log)} evaluated candidates is usable: all failed or violate a "
            "constraint; relax the constraints or search another region"
        )
    candidates = np.flatnonzero(allowed)
    chosen = candidates[nondominated(F[candidates])]
    chosen = chosen[np.lexsort(F[chosen].T[::-1])]
    space = problem.space
    X = space.canonical(np.array([log.X[i] for i in chosen]))
    names, rows = _controls(problem)
    anchors = {split: problem.anchors(split) for split in _splits(problem)}

    def without_search(split: str) -> Array:
        known = list(anchors[split].evaluations)
        for row in rows[len(known) :]:
            known += problem.measured_uniform(row[None], split=split)
        return metric_table(problem, known)

    ref_search = without_search("search")
    front_search = metric_table(problem, [problem.record(x) for x in X])
    ref_test, front_test = None, None
    if "test" in anchors:
        ref_test = without_search("test")
        front_test = metric_table(problem, _tested(problem, X, folder, progress))
    scales = {s: np.array([a.ideal, a.nadir]) for s, a in anchors.items()}
    shared = (problem.task_names, tuple(task.objective for task in problem.tasks))
    scale = (scales["search"], scales.get("test"))
    front = Front(
        tuple(str(i + 1) for i in range(len(X))),
        *shared,
        front_search,
        front_test,
        *scale,
        X,
        space.names,
        np.array([log.evaluations[i].cost for i in chosen]),
        parameters=values_of(space.searched, space.names, X),
    )
    references = PointSet(tuple(names), *shared, ref_search, ref_test, *scale)
    evaluated = metric_table(problem, log.evaluations)
    return SearchResult(front, references, evaluated, settings, seconds, problem, folder)


def _tested(
    problem: MergeProblem, X: Array, folder: Path | None, progress: Progress | None
) -> list[Evaluation]:
    """The front on the test split; an interrupted run goes on with the models that are left."""
    if progress is not None:
        progress("test", 0, len(X), float("nan"))
    path = folder / TESTED if folder else None
    log = EvaluationLog(path, problem, split="test")
    if path is not None and not log.begins_with(X):
        # A larger budget found another front; what is known of its models stays in the cache.
        path.unlink()
        log = EvaluationLog(path, problem, split="test")
    with log:
        for done, x in enumerate(X, start=1):
            log.add(x, problem.record(x, split="test"), False)
            if progress is not None:
                progress("test", done, len(X), float("nan"))
    return log.evaluations


def _controls(problem: MergeProblem) -> tuple[list[str], Array]:
    """Names and task-wise coefficients of the anchors, the average and task arithmetic."""
    K = problem.space.n_experts
    anchors = problem.anchors()
    extra = [("average", 1 / K), ("task arithmetic 0.3", 0.3)]
    rows = np.vstack([anchors.L, *[np.full((1, K), value) for _, value in extra]])
    return [*anchors.names, *(name for name, _ in extra)], rows


def _splits(problem: MergeProblem) -> tuple[str, ...]:
    return ("search", "test") if problem.has_test_split else ("search",)
