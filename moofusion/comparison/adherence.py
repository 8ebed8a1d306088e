"""Preference adherence: whether models made for a preference behave accordingly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.scalarize import non_uniformity
from moofusion.errors import ConfigurationError
from moofusion.problems import MergeProblem

__all__ = ["Adherence", "adherence", "measure_adherence"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Adherence:
    """How the losses of N models answer to the N preferences they were made for.

    Attributes:
        tasks: Names of the M objectives.
        preferences: Shape ``(N, M)``.
        losses: Mean losses of the models, shape ``(N, M)``; smaller is better.
        spearman: Rank correlation of a task's preference with its loss, shape ``(M,)``: -1 where
            more preference always means less loss, 0 where the front does not answer, NaN where
            preference or loss never changes.
        non_uniformity: How far ``r * losses`` of each model is from all equal, shape ``(N,)``: 0
            where the losses are inversely proportional to the preference, as EPO aims for; NaN
            where a share of the preference is zero.
        spread: Largest minus smallest loss of each task, shape ``(M,)``; 0 where all
            preferences gave one and the same model.

    Example:
        >>> wanted = [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]]
        >>> found = adherence(wanted, [[0.2, 0.9], [0.4, 0.5], [0.8, 0.3]])
        >>> found.spearman
        array([-1., -1.])
        >>> found.spread
        array([0.6, 0.6])
    """

    tasks: tuple[str, ...]
    preferences: Array
    losses: Array
    spearman: Array
    non_uniformity: Array
    spread: Array

    def table(self) -> str:
        """Markdown: one row for each task, and the mean non-uniformity below."""
        lines = ["| task | Spearman(r, loss) | loss from | to | spread |", "|---|---|---|---|---|"]
        columns = zip(
            self.tasks,
            self.spearman,
            self.losses.min(axis=0),
            self.losses.max(axis=0),
            self.spread,
            strict=True,
        )
        for task, rank, low, high, width in columns:
            lines.append(f"| {task} | {rank:+.3f} | {low:.4f} | {high:.4f} | {width:.4f} |")
        inner = self.non_uniformity[np.isfinite(self.non_uniformity)]
        if len(inner):
            lines += [
                "",
                f"Non-uniformity of r * loss: mean {inner.mean():.4f}, "
                f"largest {inner.max():.4f} (corners left out).",
            ]
        return "\n".join(lines)


def adherence(preferences: Array, losses: Array, tasks: Sequence[str] | None = None) -> Adherence:
    """Measure how losses follow preferences.

    Corners are left out of the non-uniformity, which is not defined there: a task without weight
    may have any loss.

    Args:
        preferences: Rows that sum to one, shape ``(N, M)``.
        losses: Positive mean losses of the N models, shape ``(N, M)``.
        tasks: Names of the objectives.

    Raises:
        ConfigurationError: Shapes that do not fit, or losses that are not finite.

    Example:
        >>> r = np.array([[0.2, 0.8], [0.5, 0.5], [0.8, 0.2]])
        >>> adherence(r, 1 / r).spearman
        array([-1., -1.])
    """
    from scipy.stats import rankdata

    R, losses = np.atleast_2d(np.asarray(preferences, float)), np.atleast_2d(losses)
    if R.shape != losses.shape or not len(R):
        raise ConfigurationError(
            f"adherence needs a row of losses for every preference, got {losses.shape} for "
            f"{R.shape}"
        )
    if not np.isfinite(losses).all():
        raise ConfigurationError("adherence needs finite losses; leave failed models out")
    M = R.shape[1]
    spearman = np.full(M, np.nan)
    for j in range(M):
        if np.ptp(R[:, j]) > 0 and np.ptp(losses[:, j]) > 0:
            ranks = rankdata(R[:, j]), rankdata(losses[:, j])
            spearman[j] = np.corrcoef(*ranks)[0, 1]
    inner = (R > 0).all(axis=1)
    mu = np.full(len(R), np.nan)
    mu[inner] = non_uniformity(losses[inner], R[inner])
    names = tuple(tasks) if tasks is not None else tuple(str(j) for j in range(M))
    return Adherence(names, R, losses, np.round(spearman, 12), mu, np.ptp(losses, axis=0))


def measure_adherence(
    problem: MergeProblem, X: Array, preferences: Array, *, split: str | None = None
) -> Adherence:
    """Adherence of decision vectors that were proposed for preferences.

    Args:
        problem: Where they are evaluated (or were: its cache answers).
        X: Decision vectors, shape ``(N, n_var)``: ``algorithm.X`` of PWEMoE or Scalarization.
        preferences: ``algorithm.preferences``, shape ``(N, M)``.
        split: By default the search split.

    Raises:
        ConfigurationError: A task has no loss, or shapes that do not fit.

    Example:
        >>> from moofusion.testing import toy_problem
        >>> r = np.array([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]])
        >>> measure_adherence(toy_problem(("a", "b")), r, r).spearman  # a rewarded soup: X is r
        array([-1., -1.])
    """
    found = [problem.record(x, split=split) for x in np.atleast_2d(X)]
    for task, measurement in zip(problem.tasks, found[0].measurements, strict=True):
        if "loss" not in measurement.metrics:
            raise ConfigurationError(
                f"task {task.name!r} measures no loss, so its adherence to preferences is unknown"
            )
    losses = np.array([[m.metrics["loss"] for m in e.measurements] for e in found])
    return adherence(preferences, losses, problem.task_names)
