"""One run of a study: searched under a budget, every evaluation stored, resumed by replay."""

from __future__ import annotations

import copy
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.termination import Termination
from pymoo.optimize import minimize

from moofusion.algorithms.checkpoints import TrainedCheckpoints
from moofusion.algorithms.pwemoe import PWEMoE
from moofusion.algorithms.registry import get_algorithm
from moofusion.algorithms.scalarization import Scalarization
from moofusion.comparison.cell_files import router_file, training_file
from moofusion.comparison.checkpoints import affordable_models, folder_of_key
from moofusion.comparison.quality import nondominated
from moofusion.comparison.run_folder import machine
from moofusion.comparison.store import Cell, Store
from moofusion.comparison.thinning import thin
from moofusion.errors import ConfigurationError, MoofusionError, RunError
from moofusion.problems import Evaluation, MergeProblem
from moofusion.tasks import Measurement

__all__ = ["Budget", "run_cell"]

Array = NDArray[np.float64]
KINDS = ("evaluations", "cost", "seconds")


@dataclass(frozen=True)
class Budget:
    """What a run may spend.

    Attributes:
        kind: ``"evaluations"``, ``"cost"`` (1 per forward sample, 3 with backward) or
            ``"seconds"`` (wall clock, optimizer included).
        limit: How much of it.
    """

    kind: str
    limit: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not self.limit > 0:
            raise ConfigurationError(
                f"budget {self}: expected a positive number of {', '.join(KINDS)}"
            )

    def __str__(self) -> str:
        return f"{self.kind}={self.limit:g}"

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Budget from its text form, ``"evaluations=200"``."""
        kind, _, limit = text.partition("=")
        try:
            return cls(kind, float(limit))
        except ValueError as error:
            raise ConfigurationError(f"budget {text!r}: expected KIND=NUMBER") from error


class _Recorder:
    """Stores the evaluations of one run, and knows what has been spent.

    On a run that was interrupted the first rows are there already: they are answered from the
    store, checked to be the same candidates, and keep the times at which they first happened.
    """

    def __init__(self, store: Store, cell: Cell, problem: MergeProblem) -> None:
        self.store, self.cell, self.problem = store, cell, problem
        self.known = store.evaluations(cell.id)
        self.X: list[Array] = []
        self.found: list[Evaluation] = []
        self.cost = 0.0
        self.elapsed = 0.0
        self.device_seconds = 0.0
        self._seen: set[bytes] = set()
        self._gradient = (0.0, 0.0)
        self._begun = self._last = time.perf_counter()

    def __call__(self, x: Array, evaluation: Evaluation, cached: bool) -> None:
        number = len(self.X) + 1
        key = self.problem.space.canonical(x[None]).tobytes()
        fresh = key not in self._seen
        self._seen.add(key)
        cost = evaluation.cost if fresh else 0.0
        self.cost += cost
        self.device_seconds += evaluation.seconds if fresh else 0.0
        if number <= len(self.known):
            row = self.known[number - 1]
            if row["x"] != json.dumps(x.tolist()):
                raise RunError(
                    f"{self.cell.title}, {self.cell.algorithm}, seed {self.cell.seed}: evaluation "
                    f"{number} is another candidate than the stored one; the study was made by "
                    "another version or on another kind of machine, start a new one"
                )
            self.elapsed = row["elapsed"]
            self._begun = time.perf_counter() - self.elapsed
        else:
            self.elapsed = time.perf_counter() - self._begun
            self.store.add_evaluation(
                self.cell.id,
                self.cell.problem,
                number,
                x,
                failed=evaluation.failed,
                feasible=bool(self.problem.feasible([evaluation])[0]),
                metrics=metric_list(self.problem, evaluation),
                cost=cost,
                paid=0.0 if cached else evaluation.cost,
                gradient=self._gradient,
                full_cost=evaluation.cost,
                seconds=evaluation.seconds,
                elapsed=self.elapsed,
            )
        self._gradient = (0.0, 0.0)
        self._last = time.perf_counter()
        self.X.append(x.copy())
        self.found.append(evaluation)

    def gradient(self, cost: float, seconds: float) -> None:
        """Charge the gradients that were taken to the evaluation that follows them."""
        self.cost += cost
        self.device_seconds += seconds
        now = time.perf_counter()
        # Seconds that did not pass here passed before an interruption.
        self._begun -= max(seconds - (now - self._last), 0.0)
        self._last = now
        self._gradient = (self._gradient[0] + cost, self._gradient[1] + seconds)


class _BudgetTermination(Termination):
    """Stops when the recorder has spent the budget."""

    def __init__(self, recorder: _Recorder, budget: Budget) -> None:
        super().__init__()
        self._recorder, self._budget = recorder, budget
        if budget.kind == "evaluations":
            # These two are read by algorithms that plan their proposals.
            self.n_max_evals = int(budget.limit)
        elif budget.kind == "cost":
            self.max_cost = budget.limit

    def _update(self, algorithm: Any) -> float:
        spent = {
            "evaluations": algorithm.evaluator.n_eval,
            "cost": self._recorder.cost,
            "seconds": self._recorder.elapsed,
        }[self._budget.kind]
        return float(spent / self._budget.limit)


def run_cell(
    path: Path, cell: Cell, problem: MergeProblem, *, front_size: int, threads: int | None
) -> str:
    """Run one cell to its end and measure its front on test.

    Args:
        path: Study file.
        cell: What to run.
        problem: The problem of that cell.
        front_size: Largest number of front models measured on test.
        threads: CPU threads of this run.

    Returns:
        An empty string, or why it failed (also kept in the store).
    """
    with Store(path, create=False) as store, _threads(threads):
        try:
            _run(store, cell, problem, front_size)
        except MoofusionError as error:
            store.fail(cell.id, str(error))
            return str(error)
        except Exception as error:
            store.fail(cell.id, f"{type(error).__name__}: {error}")
            return f"{type(error).__name__}: {error}"
        except BaseException:
            store.put_back(cell.id)
            raise
    return ""


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """CPU threads of torch for a while; a run in this process leaves them as they were."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(store: Store, cell: Cell, problem: MergeProblem, front_size: int) -> None:
    # Observers of this run alone, also where threads share the problem.
    problem = copy.copy(problem)
    problem.observers, problem.gradient_observers = [], []
    store.start(cell.id, machine(problem), front_size=front_size)
    fill_cache(store, cell.problem, problem)
    algorithm = get_algorithm(cell.algorithm, problem)
    if isinstance(algorithm, TrainedCheckpoints):
        _enter_checkpoints(store, cell, problem, algorithm, front_size)
        return
    recorder = _Recorder(store, cell, problem)
    training = None
    if isinstance(algorithm, PWEMoE | Scalarization):
        training = algorithm.checkpoint = training_file(store.path, cell)
    termination = _BudgetTermination(recorder, Budget.parse(cell.budget))
    problem.observers.append(recorder)
    problem.gradient_observers.append(recorder.gradient)
    # NSGA-III turns warnings off for the whole process.
    with warnings.catch_warnings():
        result = minimize(
            problem,
            algorithm,
            termination,
            seed=cell.seed,
            copy_algorithm=False,
            copy_termination=False,
        )
    problem.observers.remove(recorder)
    final = [] if result.X is None else list(np.atleast_2d(result.X))
    if problem.has_test_split:
        _measure_on_test(store, cell, problem, recorder, front_size)
    if isinstance(algorithm, PWEMoE) and algorithm.router is not None:
        algorithm.router.save(router_file(store.path, cell))
    store.finish(cell.id, final, max(recorder.elapsed - recorder.device_seconds, 0.0))
    if training is not None:
        training.unlink(missing_ok=True)


def _enter_checkpoints(
    store: Store,
    cell: Cell,
    problem: MergeProblem,
    algorithm: TrainedCheckpoints,
    front_size: int,
) -> None:
    """Store what was measured of models that were trained outside of the study."""
    models = affordable_models(problem, algorithm, cell.seed, Budget.parse(cell.budget))
    found = [model.evaluations["search"] for model in models]
    elapsed = 0.0
    for number, (model, evaluation) in enumerate(zip(models, found, strict=True), start=1):
        elapsed += model.seconds
        store.add_evaluation(
            cell.id,
            cell.problem,
            number,
            model.key,
            failed=evaluation.failed,
            feasible=bool(problem.feasible([evaluation])[0]),
            metrics=metric_list(problem, evaluation),
            cost=evaluation.cost,
            paid=0.0,
            gradient=(model.cost, model.seconds),
            full_cost=evaluation.cost,
            seconds=evaluation.seconds,
            elapsed=elapsed,
        )
    front = front_indices(problem, found, front_size)
    for index in front if problem.has_test_split else ():
        measured = models[index].evaluations["test"]
        store.add_measurement(
            cell.problem,
            "test",
            models[index].key,
            failed=measured.failed,
            metrics=metric_list(problem, measured),
            cost=measured.cost,
            seconds=measured.seconds,
        )
    store.finish(cell.id, [models[index].key for index in front], 0.0)


def _measure_on_test(
    store: Store, cell: Cell, problem: MergeProblem, recorder: _Recorder, front_size: int
) -> None:
    count = len(recorder.X)
    budget = Budget.parse(cell.budget)
    if budget.kind == "evaluations":
        count = min(count, int(budget.limit))
    for index in front_indices(problem, recorder.found[:count], front_size):
        x = recorder.X[index]
        evaluation = problem.record(x, split="test")
        store.add_measurement(
            cell.problem,
            "test",
            x,
            failed=evaluation.failed,
            metrics=metric_list(problem, evaluation),
            cost=evaluation.cost,
            seconds=evaluation.seconds,
        )


def front_indices(
    problem: MergeProblem, found: list[Evaluation], front_size: int
) -> NDArray[np.int64]:
    """Which evaluations make the reported front: feasible, non-dominated, at most `front_size`."""
    usable = problem.feasible(found) & ~np.array([e.failed for e in found], bool)
    candidates = np.flatnonzero(usable)
    if not len(candidates):
        return candidates
    F = problem.normalize(problem.objectives([found[i] for i in candidates]))
    front = np.flatnonzero(nondominated(F))
    return np.asarray(candidates[front[thin(F[front], front_size)]])


def metric_list(problem: MergeProblem, evaluation: Evaluation) -> list[float]:
    """Values of every metric of every task, in the order of the problem."""
    pairs = zip(problem.tasks, evaluation.measurements, strict=True)
    return [found.metrics[metric.name] for task, found in pairs for metric in task.metrics]


def fill_cache(store: Store, fingerprint: str, problem: MergeProblem) -> None:
    """Give a problem everything that the store knows of it."""
    for split in ("search", "test"):
        if not all(task.has_split(split) for task in problem.tasks):
            continue
        sizes = [task.passes(split)[0] for task in problem.tasks]
        for key, (failed, values, cost, seconds) in store.measurements(fingerprint, split).items():
            if folder_of_key(key):
                continue
            numbers = iter(values)
            measurements = tuple(
                Measurement({m.name: next(numbers) for m in task.metrics}, size)
                for task, size in zip(problem.tasks, sizes, strict=True)
            )
            evaluation = Evaluation(measurements, failed, cost, seconds)
            problem.remember(np.array(json.loads(key)), evaluation, split=split)
