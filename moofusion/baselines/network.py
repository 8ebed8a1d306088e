"""Whole-network baselines: the body fine-tuned from the base, once for every preference."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.adam import cosine
from moofusion.algorithms.batches import SeededBatches
from moofusion.algorithms.gradients import SPLIT, check_finite, check_losses, step_cost
from moofusion.algorithms.preferences import default_points, preference_grid
from moofusion.algorithms.scalarize import get_scalarizer
from moofusion.baselines.checkpoint import write_ray
from moofusion.errors import ConfigurationError, RunError

if TYPE_CHECKING:
    from torch import Tensor

    from moofusion.problems import MergeProblem

__all__ = ["Ray", "TrainedRays", "train_rays"]

Array = NDArray[np.float64]
_FILE = "baselines.json"


@dataclass(frozen=True)
class Ray:
    """One fine-tuned model.

    Attributes:
        folder: Name of its checkpoint below the folder of all.
        preference: What it was trained for, by task.
        losses: Mean training loss of each task over the last tenth of the steps.
        metrics: Every measured metric, by split, task and name.
        cost: Cost units of its training (3 per sample).
        seconds: Wall-clock seconds of its training.
        fallbacks: Steps in which the scalarization had no solution and took the preference.

    Example:
        >>> ray = Ray("ray-0", {"a": 0.7, "b": 0.3}, {"a": 0.1, "b": 0.4}, {}, 900.0, 1.5, 0)
        >>> TrainedRays(Path("runs/finetuned"), {}, (ray, ray)).cost
        1800.0
    """

    folder: str
    preference: dict[str, float]
    losses: dict[str, float]
    metrics: dict[str, dict[str, dict[str, float]]]
    cost: float
    seconds: float
    fallbacks: int


@dataclass(frozen=True)
class TrainedRays:
    """The rays of one training, as ``baselines.json`` holds them.

    Attributes:
        folder: Where they are.
        settings: What was trained.
        rays: One for each preference that is finished.

    Example:
        >>> import tempfile
        >>> ray = Ray("ray-0", {"a": 0.7, "b": 0.3}, {"a": 0.1, "b": 0.4}, {}, 900.0, 1.5, 0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = {"settings": {"method": "ls"}, "rays": [vars(ray)]}
        ...     _ = (Path(folder) / "baselines.json").write_text(json.dumps(found))
        ...     TrainedRays.load(folder).rays[0].preference
        {'a': 0.7, 'b': 0.3}
    """

    folder: Path
    settings: dict[str, Any]
    rays: tuple[Ray, ...]

    @property
    def cost(self) -> float:
        """Cost units of all training."""
        return sum(ray.cost for ray in self.rays)

    @classmethod
    def load(cls, folder: str | Path) -> TrainedRays:
        """Read what is finished.

        Raises:
            RunError: The folder holds no baselines, or a damaged file.
        """
        file = Path(folder) / _FILE
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            rays = tuple(Ray(**ray) for ray in found["rays"])
            return cls(Path(folder), found["settings"], rays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} cannot be read: {error}") from error

    def _write(self) -> None:
        content = {"settings": self.settings, "rays": [asdict(ray) for ray in self.rays]}
        temporary = self.folder / f".{_FILE}"
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.folder / _FILE)


def train_rays(
    problem: MergeProblem,
    out: str | Path,
    *,
    method: str = "ls",
    rays: int | None = None,
    steps: int = 8000,
    lr: float = 1e-5,
    batch_size: int = 16,
    dtype: str = "float32",
    seed: int = 0,
    progress: Callable[[int, int, Array], None] | None = None,
) -> TrainedRays:
    """Fine-tune the whole body from the base for every preference of a grid.

    Adam on all merged parameters, heads frozen, learning rate along a cosine to a tenth, in
    evaluation mode as the merges are measured. One model and its optimizer are in memory beside
    the problem's pool; EPO, MGDA and other methods that look at inner products of gradients hold
    one gradient for each task in addition. Each ray is written when it is finished, and a second
    call with the same settings goes on with the next.

    Args:
        problem: Its base is where training starts; every task needs a loss and a train split.
        out: Folder for the checkpoints and ``baselines.json``.
        method: See :func:`moofusion.algorithms.scalarize.get_scalarizer`.
        rays: Number of preferences; by default 11 for two tasks, 66 for more.
        steps: Steps of every ray.
        lr: Learning rate at the start.
        batch_size: Samples per task and step.
        dtype: Precision of the checkpoints.
        seed: Of preferences and batches.
        progress: Called with the steps done, all steps, and the last losses.

    Returns:
        All rays, with their cost and their metrics on the search and test splits.

    Raises:
        ConfigurationError: A task without a loss, or a value that makes no sense.
        RunError: `out` holds rays of other settings, or cannot be written.

    Source: the baselines of Tang et al. 2024 (arXiv:2406.09770), which has one equal-preference
    point of each.
    """
    check_losses("a whole-network baseline", problem)
    for name, value in (("rays", rays), ("steps", steps), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} must be positive, got {value}")
    if not (np.isfinite(lr) and lr > 0):
        raise ConfigurationError(f"lr must be positive, got {lr}")
    get_scalarizer(method)
    M = problem.n_obj
    rng = np.random.default_rng(seed)
    preferences = preference_grid(M, rays or default_points(M), rng=rng)
    settings = {
        "problem": problem.title,
        "objectives": {task.name: task.objective.name for task in problem.tasks},
        "weights": problem.evaluator.weights_fingerprint,
        "data": {
            split: problem.evaluator.tasks_fingerprint(split)
            for split in (SPLIT, *_measured_splits(problem))
        },
        "method": method,
        "rays": len(preferences),
        "steps": steps,
        "lr": lr,
        "batch_size": batch_size,
        "dtype": dtype,
        "seed": seed,
    }
    done = _open(Path(out), settings)

    def report(index: int, step: int, losses: Array) -> None:
        if progress is not None:
            progress(index * steps + step + 1, len(preferences) * steps, losses)

    for index in range(len(done.rays), len(preferences)):
        name = f"ray-{index + 1:03d}"
        # The trained weights are the problem's own buffer until they are written.
        with problem.evaluator.exclusive():
            ray = _one_ray(problem, name, preferences[index], settings, partial(report, index))
            record = asdict(ray) | {"settings": settings}
            write_ray(problem, done.folder / name, record, dtype=dtype)
        done = TrainedRays(done.folder, settings, (*done.rays, ray))
        done._write()
    return done


def _open(folder: Path, settings: dict[str, Any]) -> TrainedRays:
    """The rays that are finished already, if they are of this training."""
    if (folder / _FILE).exists():
        found = TrainedRays.load(folder)
        for key, value in settings.items():
            if found.settings.get(key) != value:
                raise RunError(
                    f"{folder} holds baselines of another training ({key} is "
                    f"{found.settings.get(key)!r}, not {value!r}); choose another folder"
                )
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error}") from error
    return TrainedRays(folder, settings, ())


def _one_ray(
    problem: MergeProblem,
    name: str,
    r: Array,
    settings: dict[str, Any],
    report: Callable[[int, Array], None],
) -> Ray:
    """Train for one preference and measure; leaves the weights in the problem's buffer."""
    steps, tasks = settings["steps"], problem.task_names
    started, losses, fallbacks = time.perf_counter(), [], 0
    for step, (found, fallback) in enumerate(_train(problem, r, name, settings)):
        losses.append(found)
        fallbacks += fallback
        report(step, found)
    seconds = time.perf_counter() - started
    tail = np.mean(losses[-max(steps // 10, 1) :], axis=0)
    return Ray(
        folder=name,
        preference=dict(zip(tasks, r.tolist(), strict=True)),
        losses=dict(zip(tasks, tail.tolist(), strict=True)),
        metrics=_measured(problem),
        cost=steps * step_cost(problem, settings["batch_size"]),
        seconds=seconds,
        fallbacks=fallbacks,
    )


def _train(
    problem: MergeProblem, r: Array, name: str, settings: dict[str, Any]
) -> Iterator[tuple[Array, bool]]:
    """Train the flat weights from the base on; yields losses and fallback of every step."""
    import torch

    evaluator, steps, lr = problem.evaluator, settings["steps"], settings["lr"]
    weigh = get_scalarizer(settings["method"])
    model = evaluator.pool.model
    model.weights.copy_(evaluator.pool.vectors.base)
    parameter = torch.nn.Parameter(model.weights)
    optimizer = torch.optim.Adam([parameter], lr=lr)
    sizes = [task.n_samples(SPLIT) for task in problem.tasks]
    # Rays see different orders, as trainings of their own would.
    seed = zlib.crc32(f"{settings['seed']}:{name}".encode())
    batches = SeededBatches(sizes, batch_size=settings["batch_size"], seed=seed)
    gradients = _Gradients(problem, r if settings["method"] == "ls" else None)
    for step in range(steps):
        losses = gradients.take(batches(step))
        check_finite(problem, losses, losses, step)
        fallback = False
        if gradients.rows is not None:
            gram = (gradients.rows @ gradients.rows.T).double().cpu().numpy()
            weights = weigh(losses, gram, r)
            gradients.combine(weights.alpha)
            fallback = weights.fallback
        parameter.grad = gradients.flat
        optimizer.param_groups[0]["lr"] = lr * cosine(step, steps)
        optimizer.step()
        yield losses, fallback


class _Gradients:
    """Gradients of all weights: added up as they come, or a row for each task.

    Args:
        problem: Whose flat weights are differentiated.
        weights: Weights of the tasks where they are known beforehand, which saves the rows.
    """

    def __init__(self, problem: MergeProblem, weights: Array | None) -> None:
        import torch

        self.problem, self.weights = problem, weights
        model = problem.evaluator.pool.model
        self.whole = problem.evaluator.pool.layout.partition("model")
        self.flat = torch.zeros_like(model.weights)
        self.rows: Tensor | None = None
        if weights is None:
            self.rows = torch.empty(problem.n_obj, *model.weights.shape, device=model.device)

    def take(self, batches: Sequence[NDArray[np.int64]]) -> Array:
        """Differentiate one batch of every task; returns the losses ``(M,)``."""
        evaluator = self.problem.evaluator
        model, losses = evaluator.pool.model, np.zeros(self.problem.n_obj)
        self.flat = model.gradient_buffer(self.whole)
        try:
            for j, (task, samples) in enumerate(zip(self.problem.tasks, batches, strict=True)):
                loss = task.loss(evaluator.module(task), SPLIT, samples)
                losses[j] = float(loss.detach())
                if self.weights is not None:
                    loss = loss * float(self.weights[j])
                loss.backward()  # type: ignore[no-untyped-call]
                if self.rows is not None:
                    self.rows[j] = self.flat
                    self.flat.zero_()
        finally:
            model.release_gradients()
        evaluator.counter.backward += sum(map(len, batches))
        return losses

    def combine(self, alpha: Array) -> None:
        """Put the weighted sum of the rows into the flat gradient."""
        import torch

        assert self.rows is not None
        weights = torch.as_tensor(alpha, dtype=self.rows.dtype, device=self.rows.device)
        torch.mv(self.rows.T, weights, out=self.flat)


def _measured(problem: MergeProblem) -> dict[str, dict[str, dict[str, float]]]:
    """Every metric of the weights as they are, by split and task."""
    evaluator = problem.evaluator
    return {
        split: {
            task.name: dict(task.evaluate(evaluator.module(task), split).metrics)
            for task in problem.tasks
        }
        for split in _measured_splits(problem)
    }


def _measured_splits(problem: MergeProblem) -> tuple[str, ...]:
    return ("search", "test") if problem.has_test_split else ("search",)
