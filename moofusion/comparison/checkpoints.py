"""Models that no search of coefficients could find: fine-tuned checkpoints beside merges."""

from __future__ import annotations

import numpy as np

from moofusion.baselines import TrainedRays
from moofusion.comparison.front import PointSet
from moofusion.errors import ConfigurationError
from moofusion.problems import MergeProblem

__all__ = ["checkpoint_points"]


def checkpoint_points(problem: MergeProblem, trained: TrainedRays) -> PointSet:
    """Fine-tuned models as points of a problem, on its scale.

    ``checkpoint_points(problem, trained).normalized("test")`` goes into
    :func:`moofusion.comparison.hypervolume` as the front of a search does. What they cost is
    ``trained.cost``, in the units of the budgets of studies, their measurement left out.

    Args:
        problem: What they are compared on; the one they were trained on, in any space.
        trained: What ``moofusion baselines train`` left, from :meth:`TrainedRays.load`.

    Raises:
        ConfigurationError: They were trained from other models, or for other tasks.
    """
    names = problem.task_names
    if trained.settings["weights"] != problem.evaluator.weights_fingerprint:
        raise ConfigurationError(
            f"the baselines in {trained.folder} were trained from other models than those of "
            f"{problem.title!r}"
        )
    if tuple(trained.settings["objectives"]) != names or not trained.rays:
        raise ConfigurationError(
            f"the baselines in {trained.folder} are {len(trained.rays)} models for "
            f"{', '.join(trained.settings['objectives'])}, not for {', '.join(names)}"
        )
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
