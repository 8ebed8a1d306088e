"""How many evaluations a budget pays for, whatever it counts."""

from __future__ import annotations

from math import isfinite
from typing import Any

__all__ = ["counted_budget", "evaluation_budget", "evaluation_cost"]


def evaluation_cost(problem: Any) -> float:
    """Cost units of one evaluation: samples that go through the model; 1 where there are none."""
    if not hasattr(problem, "tasks"):
        return 1.0
    return float(sum(task.passes(problem.split)[0] for task in problem.tasks))


def evaluation_budget(algorithm: Any, *, spent_otherwise: float = 0.0) -> int | None:
    """Evaluations that the termination of an algorithm allows in all, at least one.

    Args:
        algorithm: Set up by pymoo.
        spent_otherwise: Cost units that were not spent on evaluations.

    Returns:
        Their number; None where neither evaluations nor their cost are limited.
    """
    limit = getattr(algorithm.termination, "max_cost", None)
    unit = evaluation_cost(algorithm.problem) if limit is not None else 0.0
    if limit is not None and unit > 0:
        return max(int((limit - spent_otherwise) // unit), 1)
    return counted_budget(algorithm)


def counted_budget(algorithm: Any) -> int | None:
    """Evaluations that the termination of an algorithm counts up to; None where it counts none."""
    limit = getattr(algorithm.termination, "n_max_evals", None)
    return int(limit) if limit is not None and isfinite(limit) else None
