"""Nested MAP: merges of two at a time, each a MAP in two variables, chosen by preference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.population import Population

from moofusion.algorithms.map.core import Predicted, SurrogateAlgorithm
from moofusion.algorithms.map.selection import most_promising
from moofusion.algorithms.preferences import parse_preference
from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.surrogates import MergeSurrogate, n_parameters

__all__ = ["NestedMAP", "task_evaluations"]

Array = NDArray[np.float64]

_PAIRINGS = ("metric", "cosine")
_PER_PAIR = 20
# Two-variable design, the same for every pair and preference, so that pairs of experts are
# evaluated once however many preferences follow. Best first: a short budget takes the head.
_DESIGN = np.array(
    [
        [0.5, 0.5], [1.0, 0.0], [0.0, 1.0], [0.8, 0.4], [0.4, 0.8], [0.75, 0.75], [0.25, 0.25],
        [0.9, 0.15], [0.15, 0.9], [0.6, 0.3], [0.3, 0.6], [0.0, 0.0], [1.0, 0.5], [0.5, 1.0],
    ]
)  # fmt: skip
_GRID = np.stack(np.meshgrid(*[np.linspace(0, 1.1, 56)] * 2), axis=2).reshape(-1, 2)


def task_evaluations(n_tasks: int, *, per_pair: int = _PER_PAIR) -> tuple[int, int]:
    """Evaluations of single tasks that plain MAP (2p points) and nested MAP need.

    Args:
        n_tasks: Number of tasks K, a power of two for the second number to be exact.
        per_pair: Evaluations of each merge of two.

    Example:
        >>> [task_evaluations(k) for k in (4, 8, 16)]
        [(120, 160), (720, 480), (4896, 1280)]
    """
    return 2 * n_parameters(n_tasks) * n_tasks, round(log2(n_tasks) * n_tasks * per_pair)


@dataclass(frozen=True)
class _Group:
    """Models merged so far: coefficients of all experts, and the tasks they stand for."""

    members: tuple[int, ...]
    row: Array
    weight: float
    quality: float = 0.0


class NestedMAP(SurrogateAlgorithm):
    """One model for one preference, by merging the two closest groups again and again.

    Every merge of two groups is a MAP in two variables: a fixed design, surrogates of the metrics
    of their tasks, the front of the two preference-weighted composites, a few of its points
    verified, and the best of all by preference. The result is one coefficient for each expert.

    A merge of two needs the tasks of these two groups alone (`task_evaluations_needed`); through
    the problem every evaluation measures all tasks, so that each of its points can stand on the
    front. Pairs of experts are evaluated at the same points for every preference: on one problem
    object they are paid once.

    Args:
        preference: Weights of the objectives (see :func:`parse_preference`); None: equal.
        pairing: ``"metric"``: groups of similar normalized objective; ``"cosine"``: groups whose
            task vectors point in similar directions.
        per_pair: Evaluations of a merge of two; by default the budget by the number of merges,
            else 20. The last merge takes what is left of the budget.
        batch_size: Candidates per iteration.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Attributes:
        chosen: Decision vector of the final model, once there is one.

    Source: Li et al. 2024, MAP (arXiv:2406.07529), nested merging. Unlike the public code it
    compares groups on one scale.

    Raises:
        ConfigurationError: Fewer than two experts, or a task without an expert of its own.

    Example:
        >>> import moofusion
        >>> from pymoo.optimize import minimize
        >>> problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
        >>> result = minimize(problem, NestedMAP(preference="animals=2,objects=1"),
        ...                   ("n_eval", 9), seed=1)
        >>> result.algorithm.chosen.shape
        (2,)
    """

    def __init__(
        self,
        *,
        preference: str | Mapping[str, float] | Sequence[float] | None = None,
        pairing: str = "metric",
        per_pair: int | None = None,
        batch_size: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        if pairing not in _PAIRINGS:
            raise UnknownNameError("pairing of NestedMAP", pairing, _PAIRINGS)
        if per_pair is not None and per_pair < 4:
            raise ConfigurationError(f"per_pair must be at least 4, got {per_pair}")
        self.preference, self.pairing, self.per_pair = preference, pairing, per_pair
        self.chosen: Array | None = None
        self.task_evaluations_needed = 0
        self._pair: tuple[_Group, _Group] | None = None
        self._two: MergeSurrogate | None = None
        self._Z = np.empty((0, 2))
        self._allowance = 0

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        super()._setup(problem, **kwargs)
        if not hasattr(problem, "space"):
            raise ConfigurationError(
                f"NestedMAP merges experts and needs a MergeProblem, got {type(problem).__name__}"
            )
        experts = problem.space.experts
        owners = [task.head or task.name for task in problem.tasks]
        if len(experts) < 2 or sorted(owners) != sorted(experts):
            raise ConfigurationError(
                "NestedMAP needs two or more experts with exactly one task each; the experts are "
                f"{list(experts)}, the tasks belong to {owners}"
            )
        names = [task.name for task in problem.tasks]
        self.r = (
            np.full(len(names), 1 / len(names))
            if self.preference is None
            else parse_preference(self.preference, names)
        )
        self._groups = []
        anchors = problem.normalize(problem.anchors().F)
        for j, owner in enumerate(owners):
            k = experts.index(owner)
            row = np.eye(len(experts))[k]
            self._groups.append(_Group((j,), row, float(self.r[j]), float(anchors[k + 1, j])))
        self._merges_left = len(experts) - 1
        self._level = list(self._groups)
        self._groups = []

    # ------------------------------------------------------------------ stages

    def _plan(self) -> Array:
        if self._pair is None:
            if self._merges_left == 0:
                return np.empty((0, self.problem.n_var))
            self._open_pair()
        done = len(self._Z)
        if done < self._allowance:
            Z = self._design(done) if not done else self._verification(self._allowance - done)
            self._Z = np.vstack([self._Z, Z])
            assert self._pair is not None
            self.task_evaluations_needed += len(Z) * len(
                self._pair[0].members + self._pair[1].members
            )
            return self._decision(Z)
        self._close_pair()
        return self._plan()

    def _open_pair(self) -> None:
        if len(self._level) < 2:
            self._level, self._groups = self._groups + self._level, []
        distance = self._distances()
        i, j = min(combinations(range(len(self._level)), 2), key=lambda pair: distance[pair])
        self._pair = (self._level[i], self._level[j])
        self._level = [g for index, g in enumerate(self._level) if index not in (i, j)]
        self._Z = np.empty((0, 2))
        self._allowance = self.per_pair or _PER_PAIR
        if self.left is not None:
            share = max(self.left // self._merges_left, 1)
            last = self._merges_left == 1
            self._allowance = self.left if last else min(self.per_pair or share, self.left)
        self._allowance = max(self._allowance, 1)

    def _distances(self) -> dict[tuple[int, int], float]:
        pairs = list(combinations(range(len(self._level)), 2))
        if self.pairing == "metric":
            return {(i, j): abs(self._level[i].quality - self._level[j].quality) for i, j in pairs}
        vectors = self.problem.evaluator.pool.vectors
        norms = vectors.norms()
        gram = vectors.cosines() * np.outer(norms, norms)
        found = {}
        for i, j in pairs:
            a, b = self._level[i].row, self._level[j].row
            size = np.sqrt((a @ gram @ a) * (b @ gram @ b))
            found[i, j] = -float(a @ gram @ b / size) if size > 0 else 0.0
        return found

    def _design(self, done: int) -> Array:
        return _DESIGN[: max(min(len(_DESIGN), 2 * self._allowance // 3), 1)]

    def _verification(self, count: int) -> Array:
        """Points of the front of the two composites; the one of the preference first."""
        self._two = self._pair_surrogate()
        Z = _GRID[self._two.support.violation(_GRID) <= 0]
        fresh = np.abs(Z[:, None] - self._Z[None]).max(axis=2).min(axis=1) > 1e-9
        Z = Z[fresh]
        scaled = self._scaled(self._two.predict(Z)[0])
        first = int((scaled @ self._weights()).argmin())
        rest = np.delete(np.arange(len(Z)), first)
        composites = self._composites(scaled)
        more = most_promising(composites[rest], composites[[first]], min(count - 1, len(rest)))
        chosen = Z[[first, *rest[more]]]
        self._predicted_here(chosen)
        return np.asarray(chosen)

    def _close_pair(self) -> None:
        """The best evaluated merge of the two becomes a group."""
        assert self._pair is not None
        one, two = self._pair
        scaled = self._scaled(self._own(self.measured(self._decision(self._Z))))
        best = int((scaled @ self._weights()).argmin())
        row = self._Z[best] @ np.stack([one.row, two.row])
        quality = float(scaled[best] @ self._weights())
        members = one.members + two.members
        self._groups.append(_Group(members, row, one.weight + two.weight, quality))
        self._merges_left -= 1
        if self._merges_left == 0:
            self.chosen = self._decision(self._Z[[best]])[0]
        self._pair = None

    def _exhausted(self) -> bool:
        done = super()._exhausted()
        if done and self._pair is not None:
            self._close_pair()
        return done

    # ------------------------------------------------------------------ two variables

    def _decision(self, Z: Array) -> Array:
        assert self._pair is not None
        rows = np.stack([group.row for group in self._pair])
        return np.asarray(self.problem.space.uniform(Z @ rows))

    def _members(self) -> list[int]:
        assert self._pair is not None
        return list(self._pair[0].members + self._pair[1].members)

    def _own(self, F: Array) -> Array:
        return F[:, self._members()]

    def _scaled(self, own: Array) -> Array:
        """Normalized objectives of the tasks of this pair."""
        full = np.tile(self.problem.anchors().ideal, (len(own), 1))
        full[:, self._members()] = own
        return np.asarray(self.problem.normalize(full))[:, self._members()]

    def _weights(self) -> Array:
        r = self.r[self._members()]
        return np.asarray(r / r.sum()) if r.sum() > 0 else np.full(len(r), 1 / len(r))

    def _composites(self, scaled: Array) -> Array:
        """Preference-weighted mean objective of each of the two groups."""
        assert self._pair is not None
        first = len(self._pair[0].members)
        parts = []
        for own in (slice(0, first), slice(first, None)):
            r = self.r[self._members()][own]
            w = r / r.sum() if r.sum() > 0 else np.full(len(r), 1 / len(r))
            parts.append(scaled[:, own] @ w)
        return np.stack(parts, axis=1)

    def _pair_surrogate(self) -> MergeSurrogate:
        X = self._decision(self._Z)
        known = {ind.X.astype(float).tobytes(): ind for ind in self._usable(self.evaluated)}
        there = [i for i, x in enumerate(X) if x.tobytes() in known]
        found = Population.create(*[known[X[i].tobytes()] for i in there])
        values = self._values(found)[:, self._members()]
        targets = [self.targets[j] for j in self._members()]
        return MergeSurrogate.fit(self._Z[there], values, targets, kind=self.surrogate_kind)

    def _predicted_here(self, Z: Array) -> None:
        assert self._two is not None
        F, std = self._two.predict(Z)
        full = np.full((len(Z), self.problem.n_obj), np.nan)
        spread = full.copy()
        full[:, self._members()], spread[:, self._members()] = F, std
        self._promised.append(Predicted(self._decision(Z), full, spread))

    @property
    def surrogate(self) -> MergeSurrogate:
        """Surrogates of the last merge, in its two variables."""
        if self._two is None:
            raise ConfigurationError("no merge of two has been fitted yet")
        return self._two
