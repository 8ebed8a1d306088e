"""A study: any algorithms on any problems over seeds at equal cost, with nothing lost."""

from __future__ import annotations

import copy
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moofusion.algorithms.checkpoints import TrainedCheckpoints
from moofusion.algorithms.soups import owners
from moofusion.comparison.cell import Budget, metric_list, run_cell
from moofusion.comparison.checkpoints import affordable_models
from moofusion.comparison.store import Cell, Store
from moofusion.errors import ConfigurationError, RunError, UnknownNameError
from moofusion.merging import MergeMethod, make_method
from moofusion.problems import MergeProblem, ProblemSpec, get_problem
from moofusion.problems.merge_problem import Anchors
from moofusion.progress import study_progress

if TYPE_CHECKING:
    from moofusion.comparison.study_data import StudyData

__all__ = ["Study"]

#: ``progress(done, total)`` in evaluations, called about twice a second.
Progress = Callable[[int, int], None]

#: Most models of a run that are measured on test, unless a study says otherwise.
FRONT_SIZE = 50

_BACKENDS = ("loky", "threading", "dask", "ray")
_ATTEMPTS = 5
# Scales at which uniform merges are tried, for the controls "best scale".
_SCALES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3)


class Study:
    """The grid problem x algorithm x seed under one budget, in one SQLite file.

    Running it again does only what is missing. A run that was killed goes on by replay: its
    algorithm starts from its seed, and meets its earlier evaluations in the store. Unfinished
    trainings and trained routers lie beside it in ``STORE-files/``.

    Args:
        problems: Names in the catalogue, paths of problem files, :class:`ProblemSpec` or
            :class:`MergeProblem`; a mapping gives them titles of their own.
        algorithms: Names with parameters (``"nsga2:pop_size=20"``).
        seeds: Number of independent seeds (drawn from one ``SeedSequence``, the same for every
            algorithm, so that results can be paired), or the seeds themselves.
        evaluations: Budget in evaluations ...
        cost: ... or in cost units (1 per forward sample) ...
        seconds: ... or in wall-clock seconds. Exactly one of the three.
        store: The store (SQLite) of the study.
        front_size: Largest number of models of a run that are measured on test.
        controls: Whether random search and rewarded soup (where every objective has an expert) run
            beside the algorithms, so that every table shows what they are worth, and merges that
            need no search (average, task arithmetic, TIES) are measured for the figures.

    Raises:
        ConfigurationError: A wrong budget, an unknown algorithm, no seeds.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     problem = get_problem("vision4", tasks=["objects"])
        ...     study = Study(problem, ["random:batch_size=2"], seeds=1, evaluations=2,
        ...                   store=Path(folder) / "study.db", controls=False)
        ...     _ = study.run()
        ...     [cell.status for cell in study.cells()]
        ['done']
    """

    def __init__(
        self,
        problems: Any,
        algorithms: Sequence[str],
        *,
        seeds: int | Sequence[int] = 5,
        evaluations: int | None = None,
        cost: float | None = None,
        seconds: float | None = None,
        store: str | Path,
        front_size: int = FRONT_SIZE,
        controls: bool = True,
    ) -> None:
        limits = {"evaluations": evaluations, "cost": cost, "seconds": seconds}
        given = {kind: limit for kind, limit in limits.items() if limit is not None}
        if len(given) != 1:
            raise ConfigurationError(
                f"a study needs exactly one budget (evaluations, cost or seconds), got {given}"
            )
        ((kind, limit),) = given.items()
        self.budget = Budget(kind, float(limit))
        self.path = Path(store)
        self.front_size = front_size
        self.seeds = _seeds(seeds)
        if not algorithms:
            raise ConfigurationError("a study needs at least one algorithm, got none")
        self._problems = _opened(problems)
        listed = [*algorithms, *(_missing_controls(algorithms, self._problems) if controls else ())]
        self.algorithms = tuple(dict.fromkeys(listed))
        self._by_fingerprint = {p.fingerprint(): p for p in self._problems}
        self._enter(controls)

    def _enter(self, controls: bool) -> None:
        """Write problems and cells to the store; check algorithms before anything is paid."""
        from moofusion.algorithms.registry import get_algorithm

        for problem in self._problems:
            for algorithm in self.algorithms:
                made = get_algorithm(algorithm, problem)
                if isinstance(made, TrainedCheckpoints):
                    for seed in self.seeds:
                        affordable_models(problem, made, seed, self.budget)
        with Store(self.path) as store:
            known = store.problems()
            for fingerprint, problem in self._by_fingerprint.items():
                if fingerprint not in known:
                    store.add_problem(fingerprint, problem.title, _describe(problem, controls))
                elif controls and not any(known[fingerprint][1]["controls"].values()):
                    # An earlier study went without.
                    store.describe(fingerprint, _describe(problem, controls))
                for algorithm in self.algorithms:
                    for seed in self.seeds:
                        store.add_cell(fingerprint, algorithm, seed, str(self.budget))

    def __repr__(self) -> str:
        return (
            f"Study({len(self._problems)} problems x {len(self.algorithms)} algorithms x "
            f"{len(self.seeds)} seeds, {self.budget}, {self.path})"
        )

    def only(self, problem: str, algorithm: str, seed: int) -> Study:
        """The study of one of its runs alone, in the same store.

        Raises:
            UnknownNameError: No problem has that title, or there is no such algorithm or seed.
        """
        titles = {p.title: p for p in self._problems}
        if problem not in titles:
            raise UnknownNameError("problem of the study", problem, titles)
        if algorithm not in self.algorithms:
            raise UnknownNameError("algorithm of the study", algorithm, self.algorithms)
        if seed not in self.seeds:
            raise UnknownNameError("seed of the study", seed, map(str, self.seeds))
        one = copy.copy(self)
        one.algorithms, one.seeds = (algorithm,), (seed,)
        one._problems = [titles[problem]]
        one._by_fingerprint = {titles[problem].fingerprint(): titles[problem]}
        return one

    def cells(self) -> list[Cell]:
        """The runs of this study with their state."""
        with Store(self.path) as store:
            return [cell for cell in store.cells() if self._mine(cell)]

    def _mine(self, cell: Cell) -> bool:
        return (
            cell.problem in self._by_fingerprint
            and cell.algorithm in self.algorithms
            and cell.seed in self.seeds
            and cell.budget == str(self.budget)
        )

    def missing(self) -> tuple[int, float]:
        """Runs that are not done, and about how many seconds their searches take, one at a time.

        An evaluation is taken to last as long as those of base and experts; measuring the fronts
        on test comes on top.
        """
        cells = [cell for cell in self.cells() if cell.status != "done"]
        seconds = 0.0
        for fingerprint, problem in self._by_fingerprint.items():
            mine = [cell for cell in cells if cell.problem == fingerprint]
            if self.budget.kind == "seconds" or not mine:
                seconds += self.budget.limit * len(mine)
                continue
            anchors = problem.anchors().evaluations
            limit = self.budget.limit
            if self.budget.kind == "cost":
                limit /= anchors[0].cost
            left = sum(max(limit - cell.evaluations, 0) for cell in mine)
            seconds += left * float(np.median([found.seconds for found in anchors]))
        return len(cells), seconds

    def run(
        self,
        *,
        n_jobs: int = 1,
        backend: str = "loky",
        threads: int | None = None,
        progress: Progress | None = None,
        verbose: bool = False,
    ) -> Study:
        """Run what is missing.

        Args:
            n_jobs: Runs at a time.
            backend: joblib backend: ``"loky"`` (processes), ``"threading"``, ``"dask"`` or
                ``"ray"``; for the last two connect to a cluster first. All workers must reach the
                store.
            threads: CPU threads of each run; by default the cores shared out among the jobs.
            progress: Called with evaluations done and, where the budget tells, their total.
            verbose: Show a bar, where no `progress` is given.

        Returns:
            The study itself.

        Raises:
            RunError: Runs failed; the others are finished, and the message names each.
        """
        if backend not in _BACKENDS:
            raise ConfigurationError(f"backend {backend!r}: expected one of {', '.join(_BACKENDS)}")
        if n_jobs < 1:
            raise ConfigurationError(f"n_jobs must be positive, got {n_jobs}")
        if backend == "dask":
            _require_dask_client()
        if threads is None:
            threads = max(1, (os.cpu_count() or 1) // n_jobs)
        bar = study_progress() if verbose and progress is None else nullcontext(progress)
        with bar as shown, _watched(self, shown):
            for attempt in range(_ATTEMPTS):
                missing = [cell for cell in self.cells() if cell.status != "done"]
                if not missing:
                    break
                if not self._run_cells(missing, n_jobs, backend, threads, attempt):
                    break
        failed = [cell for cell in self.cells() if cell.status != "done"]
        if failed:
            listed = "\n".join(
                f"  {c.title}, {c.algorithm}, seed {c.seed}: {c.message or c.status}"
                for c in failed[:10]
            )
            raise RunError(
                f"{len(failed)} of {len(self.cells())} runs did not finish:\n{listed}\n"
                "The others are stored; running the study again tries only these"
            )
        return self

    def _run_cells(
        self, cells: Sequence[Cell], n_jobs: int, backend: str, threads: int, attempt: int
    ) -> bool:
        """Run cells; whether a lost worker makes another attempt worthwhile."""
        tasks = [
            (self.path.resolve(), cell, self._by_fingerprint[cell.problem], self.front_size)
            for cell in cells
        ]
        if n_jobs == 1 and backend in ("loky", "threading"):
            for path, cell, problem, size in tasks:
                run_cell(path, cell, problem, front_size=size, threads=threads)
            return False
        import joblib

        options: dict[str, Any] = {"n_jobs": n_jobs}
        if backend == "loky":
            options["inner_max_num_threads"] = threads
        if backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()
        try:
            with joblib.parallel_config(backend, **options), warnings.catch_warnings():
                # loky replaces workers that have grown; no run is lost by it.
                warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
                joblib.Parallel(batch_size=1)(
                    joblib.delayed(run_cell)(p, c, q, front_size=size, threads=threads)
                    for p, c, q, size in tasks
                )
        except Exception as error:  # every backend has its own way to say that a worker died
            if attempt == _ATTEMPTS - 1:
                raise RunError(f"workers died {_ATTEMPTS} times: {error}") from error
            warnings.warn(
                f"a worker was lost ({type(error).__name__}); going on with what is missing",
                RuntimeWarning,
                stacklevel=2,
            )
            return True
        return False

    def results(self) -> StudyData:
        """Everything in the store, as arrays; indicators and tables are computed from it."""
        from moofusion.comparison.study_data import StudyData

        return StudyData.read(self.path)

    def _repr_html_(self) -> str:
        return self.results()._repr_html_()


def _require_dask_client() -> None:
    try:
        from distributed import get_client

        get_client()
    except ImportError as error:
        raise ConfigurationError("backend 'dask' needs the extra: moofusion[dask]") from error
    except ValueError as error:
        raise ConfigurationError(
            "backend 'dask' needs a client that is connected in the same Python process: "
            "distributed.Client('scheduler:8786'), or distributed.Client() for this machine"
        ) from error


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int):
        if seeds < 1:
            raise ConfigurationError(f"seeds must be positive, got {seeds}")
        # 31 bits: seeds are shown in tables and typed again.
        drawn = np.random.SeedSequence(2024).generate_state(seeds) >> 1
        return tuple(int(seed) for seed in drawn)
    unique = tuple(dict.fromkeys(int(seed) for seed in seeds))
    if not unique:
        raise ConfigurationError("a study needs at least one seed, got none")
    return unique


def _missing_controls(algorithms: Sequence[str], problems: Sequence[MergeProblem]) -> Iterator[str]:
    ran = {algorithm.partition(":")[0] for algorithm in algorithms}
    if "random" not in ran:
        yield "random"
    if "soup" not in ran and all(None not in owners(problem) for problem in problems):
        yield "soup"


def _opened(problems: Any) -> list[MergeProblem]:
    if isinstance(problems, str | Path | ProblemSpec | MergeProblem):
        problems = [problems]
    titled = problems.items() if isinstance(problems, Mapping) else ((None, p) for p in problems)
    opened = []
    for title, problem in titled:
        if isinstance(problem, ProblemSpec):
            problem = problem.build()
        elif not isinstance(problem, MergeProblem):
            problem = get_problem(problem)
        if title is not None:
            problem.title = title
        opened.append(problem)
    if not opened:
        raise ConfigurationError("a study needs at least one problem, got none")
    titles = [problem.title for problem in opened]
    if len(set(titles)) < len(titles):
        raise ConfigurationError(
            f"the problems of a study need different titles, got {titles}; pass a mapping from "
            "title to problem"
        )
    return opened


def _describe(problem: MergeProblem, controls: bool) -> dict[str, Any]:
    """What tables and plots need of a problem; measures anchors and, where asked for, controls."""
    splits = ("search", "test") if problem.has_test_split else ("search",)
    merges = _controls(problem) if controls else {}
    return {
        "tasks": list(problem.task_names),
        "objectives": [task.objective.name for task in problem.tasks],
        "metrics": [[vars(metric) for metric in task.metrics] for task in problem.tasks],
        "variables": list(problem.space.names),
        "experts": list(problem.space.experts),
        "searched": {name: found.table for name, found in problem.space.searched.items()},
        "space": repr(problem.space),
        "held_out_test": problem.has_test_split,
        "spec": problem.spec.model_dump() if problem.spec else None,
        "anchors": {split: _anchor_rows(problem, problem.anchors(split)) for split in splits},
        "controls": {split: _control_rows(problem, merges, split) for split in splits},
    }


def _anchor_rows(problem: MergeProblem, anchors: Anchors) -> dict[str, Any]:
    rows = zip(anchors.names, anchors.evaluations, strict=True)
    return {
        "ideal": anchors.ideal.tolist(),
        "nadir": anchors.nadir.tolist(),
        "models": {name: metric_list(problem, evaluation) for name, evaluation in rows},
    }


def _controls(problem: MergeProblem) -> dict[str, tuple[MergeMethod, float]]:
    """Merges that need no search: method and scale; best scales are chosen on the search split."""
    arithmetic, ties = make_method("linear"), make_method("ties")
    best, best_ties = (_best_scale(problem, method) for method in (arithmetic, ties))
    return {
        "average": (arithmetic, 1 / problem.space.n_experts),
        "task arithmetic 0.3": (arithmetic, 0.3),
        f"task arithmetic {best:g} (best scale)": (arithmetic, best),
        f"TIES {best_ties:g} (best scale)": (ties, best_ties),
    }


def _best_scale(problem: MergeProblem, method: MergeMethod) -> float:
    L = np.outer(_SCALES, np.ones(problem.space.n_experts))
    tried = problem.measured_uniform(L, method=method)
    scores = problem.normalize(problem.objectives(tried)).mean(axis=1)
    return _SCALES[int(scores.argmin())]


def _control_rows(
    problem: MergeProblem, controls: Mapping[str, tuple[MergeMethod, float]], split: str
) -> dict[str, list[float]]:
    rows = {}
    for name, (method, scale) in controls.items():
        L = np.full((1, problem.space.n_experts), scale)
        (found,) = problem.measured_uniform(L, split=split, method=method)
        rows[name] = metric_list(problem, found)
    return rows


@contextmanager
def _watched(study: Study, progress: Progress | None) -> Iterator[None]:
    """Report progress from the store while other processes write it."""
    if progress is None:
        yield
        return
    stop = threading.Event()

    def report() -> None:
        total = int(study.budget.limit) if study.budget.kind == "evaluations" else 0
        cells = study.cells()
        # A run may end early, or finish a generation beyond its budget.
        done = sum(
            total if total and c.status == "done" else min(c.evaluations, total or c.evaluations)
            for c in cells
        )
        progress(done, total * len(cells))

    def watch() -> None:
        while not stop.is_set():
            report()
            stop.wait(0.5)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        report()
