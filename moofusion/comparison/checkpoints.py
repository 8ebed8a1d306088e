"""Models that no search of coefficients could find: fine-tuned checkpoints beside merges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from moofusion.algorithms.checkpoints import TrainedCheckpoints
from moofusion.baselines import Ray, TrainedRays
from moofusion.comparison.front import PointSet
from moofusion.errors import ConfigurationError
from moofusion.problems import Evaluation, MergeProblem
from moofusion.tasks import Measurement

if TYPE_CHECKING:
    from moofusion.comparison.cell import Budget

__all__ = ["TrainedModel", "affordable_models", "checkpoint_points", "folder_of_key"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TrainedModel:
    """One fine-tuned checkpoint, as a study enters it.

    Attributes:
        key: What stands in the place of a decision vector in the store.
        evaluations: What was measured, by split.
        cost: Cost units of its training.
        seconds: Wall-clock seconds of its training.
    """

    key: str
    evaluations: dict[str, Evaluation]
    cost: float
    seconds: float


def checkpoint_points(problem: MergeProblem, trained: TrainedRays) -> PointSet:
    """Fine-tuned models as points of a problem, on its scale.

    ``checkpoint_points(problem, trained).normalized("test")`` goes into
    :func:`moofusion.comparison.hypervolume` as the front of a search does. What they cost is
    ``trained.cost``, in the units of the budgets of studies, their measurement left out.

    Args:
        problem: What they are compared on; the one they were trained on, in any space.
        trained: What ``moofusion baselines train`` left, from :meth:`TrainedRays.load`.

    Raises:
        ConfigurationError: They were trained from other models, for other tasks, or measured on
            other data.
    """
    _check(problem, trained)
    names = problem.task_names
    anchors = {
        split: problem.anchors(split)
        for split in ("search", "test")
        if split in trained.rays[0].metrics
    }
    values = {
        split: np.array(
            [
                [ray.metrics[split][task.name][task.objective.name] for task in problem.tasks]
                for ray in trained.rays
            ]
        )
        for split in anchors
    }
    scales = {split: np.array([a.ideal, a.nadir]) for split, a in anchors.items()}
    return PointSet(
        tuple(f"{trained.settings['method']} {ray.folder}" for ray in trained.rays),
        names,
        tuple(task.objective for task in problem.tasks),
        values["search"],
        values.get("test"),
        scales["search"],
        scales.get("test"),
    )


def affordable_models(
    problem: MergeProblem, algorithm: TrainedCheckpoints, seed: int, budget: Budget
) -> list[TrainedModel]:
    """The checkpoints that a budget pays for, training included.

    They are taken from the middle outwards, each the one whose preference is farthest from those
    taken, so that a budget for some of them buys a front and not an end of one.

    Args:
        problem: What they are compared on.
        algorithm: Where they are.
        seed: Of the run.
        budget: Evaluations count models; cost units and seconds count training and evaluation.

    Raises:
        ConfigurationError: They do not belong to this problem, or none is paid for.
        RunError: There is no such folder.
    """
    trained = TrainedRays.load(algorithm.folder_of(seed))
    _check(problem, trained)
    rays = [trained.rays[i] for i in _outwards(problem, trained)]
    models = [_model(problem, trained, ray) for ray in rays]
    spent, kept = 0.0, []
    for model in models:
        one = {
            "evaluations": 1.0,
            "cost": model.cost + model.evaluations["search"].cost,
            "seconds": model.seconds,
        }[budget.kind]
        if spent + one <= budget.limit:
            kept.append(model)
            spent += one
    if not kept:
        raise ConfigurationError(
            f"the budget {budget} pays for none of the checkpoints in {trained.folder}: the "
            f"training of one cost {min(m.cost for m in models):g} units and took "
            f"{min(m.seconds for m in models):.0f} s; raise the budget, or train fewer steps"
        )
    return kept


def folder_of_key(key: str) -> str:
    """Folder of the checkpoint that a key in the store stands for; empty for a merge."""
    found = json.loads(key)
    return str(found["checkpoint"]) if isinstance(found, dict) else ""


def _check(problem: MergeProblem, trained: TrainedRays) -> None:
    """Raise unless models were trained and measured with what the problem holds."""
    names, settings = problem.task_names, trained.settings
    if settings["weights"] != problem.evaluator.weights_fingerprint:
        raise ConfigurationError(
            f"the baselines in {trained.folder} were trained from other models than those of "
            f"{problem.title!r}"
        )
    if tuple(settings["objectives"]) != names or not trained.rays:
        raise ConfigurationError(
            f"the baselines in {trained.folder} are {len(trained.rays)} models for "
            f"{', '.join(settings['objectives'])}, not for {', '.join(names)}"
        )
    wanted = ("search", "test") if problem.has_test_split else ("search",)
    for split in wanted:
        if settings["data"].get(split) != problem.evaluator.tasks_fingerprint(split):
            raise ConfigurationError(
                f"the baselines in {trained.folder} were measured on another {split} split, or "
                f"with other metrics, than {problem.title!r} has; train them again on it"
            )


def _outwards(problem: MergeProblem, trained: TrainedRays) -> list[int]:
    R = np.array([[ray.preference[name] for name in problem.task_names] for ray in trained.rays])
    order = [int(np.linalg.norm(R - 1 / R.shape[1], axis=1).argmin())]
    near = np.linalg.norm(R - R[order[0]], axis=1)
    while len(order) < len(R):
        near[order] = -1.0
        order.append(int(near.argmax()))
        near = np.minimum(near, np.linalg.norm(R - R[order[-1]], axis=1))
    return order


def _model(problem: MergeProblem, trained: TrainedRays, ray: Ray) -> TrainedModel:
    # The same folder trained again is another model.
    identity = json.dumps([trained.settings, asdict(ray)], sort_keys=True).encode()
    key = {
        "checkpoint": str(trained.folder / ray.folder),
        "training": xxhash.xxh3_64_hexdigest(identity),
    }
    return TrainedModel(
        json.dumps(key),
        {split: _evaluation(problem, ray, split) for split in ray.metrics},
        ray.cost,
        ray.seconds,
    )


def _evaluation(problem: MergeProblem, ray: Ray, split: str) -> Evaluation:
    sizes: Sequence[int] = [task.passes(split)[0] for task in problem.tasks]
    found = ray.metrics[split]
    measurements = tuple(
        Measurement(found[task.name], size) for task, size in zip(problem.tasks, sizes, strict=True)
    )
    failed = not all(measurement.is_finite for measurement in measurements)
    return Evaluation(measurements, failed, float(sum(sizes)), 0.0)
