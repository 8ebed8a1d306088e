"""What gradient methods ask of a problem, checked before anything is paid, and what steps cost."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.budget import evaluation_cost
from moofusion.errors import ConfigurationError, EvaluationWarning
from moofusion.problems.evaluator import gradient_cost
from moofusion.tasks import Task

__all__ = [
    "affordable_points",
    "affordable_steps",
    "check_finite",
    "check_losses",
    "clipped_decision",
    "step_cost",
]

Array = NDArray[np.float64]

#: Split that gradients are taken on.
SPLIT = "train"

# Steps of the paper's longest training.
_MOST_STEPS = 4000


def check_losses(name: str, problem: Any) -> None:
    """Raise unless every task of a problem has a differentiable loss and training samples.

    Args:
        name: Of the algorithm, for the message.
        problem: What it is to run on.

    Raises:
        ConfigurationError: It is no MergeProblem, or a task has no differentiable loss.
        DataError: A task has no training samples.
    """
    if not hasattr(problem, "losses_and_grads"):
        raise ConfigurationError(
            f"{name} follows gradients of merge coefficients and needs a MergeProblem, "
            f"got {type(problem).__name__}"
        )
    for task in problem.tasks:
        if type(task).loss is Task.loss:
            task.loss(None, SPLIT)  # raises, and says why
        task.require(SPLIT)
        if task.n_samples(SPLIT) == 0:
            raise ConfigurationError(
                f"task {task.name!r} has no samples to differentiate on in its {SPLIT!r} split"
            )


def check_finite(problem: Any, losses: Array, gradients: Array, step: int) -> None:
    """Raise if a loss or a gradient is NaN or infinite: every later step would be, too."""
    for task, loss, gradient in zip(problem.task_names, losses, gradients, strict=True):
        if not np.isfinite(loss) or not np.isfinite(gradient).all():
            raise ConfigurationError(
                f"step {step + 1}: the loss of task {task!r} or its gradient is not finite "
                f"(loss {loss:g}); lower the learning rate"
            )


def step_cost(problem: Any, batch_size: int) -> float:
    """Cost units of one step: 3 for each of the samples of all tasks.

    Where samples differ in what they cost, the mean over all batches.
    """
    return float(
        sum(
            gradient_cost([task], SPLIT).cost * min(batch_size, size) / size
            for task in problem.tasks
            if (size := task.n_samples(SPLIT))
        )
    )


def affordable_points(algorithm: Any, wanted: int) -> int:
    """At most `wanted` candidates, of which a budget of cost units pays with one half of it.

    Without such a budget these are `wanted`; there is always one.
    """
    limit = getattr(algorithm.termination, "max_cost", None)
    if limit is None:
        return wanted
    return max(min(wanted, int(limit / 2 // evaluation_cost(algorithm.problem))), 1)


def affordable_steps(
    algorithm: Any, batch_size: int, n_points: int, steps: int | None, default: int
) -> int:
    """Steps in all that leave enough of a budget of cost units to evaluate `n_points` candidates.

    Args:
        algorithm: Set up; its termination has ``max_cost`` where cost is what is limited.
        batch_size: Samples per task and step.
        n_points: Candidates that will be evaluated.
        steps: What the user asked for; None for as many as a budget of cost units pays for, up
            to 4000, and `default` without one.
        default: Steps where neither says.

    Raises:
        ConfigurationError: The budget does not pay for one step.
    """
    limit = getattr(algorithm.termination, "max_cost", None)
    if limit is None:
        return default if steps is None else steps
    wanted = _MOST_STEPS if steps is None else steps
    problem = algorithm.problem
    evaluation = evaluation_cost(problem)
    one = step_cost(problem, batch_size)
    left = int((limit - n_points * evaluation) // one)
    if wanted > 0 and left < 1:
        raise ConfigurationError(
            f"{type(algorithm).__name__}: {n_points} evaluations of {evaluation:g} cost units each "
            f"leave nothing of the budget of {limit:g} for gradient steps of {one:g}; raise the "
            "budget, or evaluate fewer points"
        )
    return min(wanted, left)


def clipped_decision(name: str, problem: Any, L: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Decision vectors of coefficients, with one warning if the bounds of the space clip any.

    Args:
        name: What proposes them, for the message.
        problem: A MergeProblem.
        L: Coefficients, shape ``(P, G, K)``.

    Returns:
        Decision vectors ``(P, n_var)``, and which of them are clipped, shape ``(P,)``.
    """
    X = problem.space.decision(L)
    off = np.abs(problem.space.coefficients(X) - L).max(axis=(1, 2))
    clipped = off > 1e-9
    if clipped.any():
        warnings.warn(
            f"{name}: the bounds of the space [{problem.xl.min():g}, {problem.xu.max():g}] clip "
            f"{int(clipped.sum())} of {len(L)} proposals, whose coefficients run from "
            f"{L.min():.3g} to {L.max():.3g}; widen space.lower and space.upper to evaluate them "
            "as they are",
            EvaluationWarning,
            stacklevel=2,
        )
    return X, clipped
