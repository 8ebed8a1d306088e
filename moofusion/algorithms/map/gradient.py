"""Gradient-enhanced MAP: every point carries a value and all derivatives of every loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.population import Population

from moofusion.algorithms.map.algorithm import MAP
from moofusion.algorithms.map.core import Search
from moofusion.algorithms.map.design import anchor_points, candidate_points
from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.surrogates import MergeSurrogate, Surrogate, Target
from moofusion.surrogates.features import quadratic_features, quadratic_slopes
from moofusion.tasks.base import Metric

__all__ = ["GradientMAP"]

Array = NDArray[np.float64]

_DESIGNS = ("spread", "curvature")
_LOSS = Metric("loss", "min")
_CANDIDATES = 256
# Coefficient sums at which gradients are taken: there is no pilot.
_SUMS = (0.4, 1.5)
# Step of the finite differences of gradients, in coefficients.
_STEP = 0.05


class GradientMAP(MAP):
    """MAP from gradients: ``n_var + 1`` points determine a quadratic.

    Gradients at m points tell its curvature along their m - 1 differences, so that fewer points
    leave some of it to the ridge, however many equations they count.

    Gradients of all losses are taken at `n_gradients` points first; each costs three evaluations,
    which the cost axis sees (``problem.gradient_observers``), and is not an evaluation of its own:
    under ``("n_eval", N)`` they come on top, under a budget of cost they are part of it.
    Loss objectives are fitted to values and gradients on the log scale. Other metrics start from
    the loss surrogate of their task, which `n_samples` evaluations map to the metric and correct.
    The rest of the budget verifies the predicted front in rounds, as in :class:`MAP`.

    Args:
        n_gradients: Points with gradients; by default ``n_var + 1``.
        n_samples: Evaluations before the first front; by default none where all objectives are
            losses, else ``n_var + 3``, at most half of the budget.
        n_verify: Points of the predicted front that are evaluated; by default the rest of the
            budget, else 20.
        rounds: Rounds in which they are evaluated.
        design: ``"spread"``: D-optimal for values and gradients. ``"curvature"``: the uniform merge
            and one step along each variable, ``n_var + 1`` points; finite differences of the
            gradients are Hessian-vector products, so that A is exact at that point (autograd
            through a merged transformer would need a second graph as large as the first).
        split: Split on which gradients are taken; by default the one that is searched.
        search: What searches the surrogate (see :class:`SurrogateAlgorithm`).
        **kwargs: Passed to :class:`MAP`.

    Raises:
        ConfigurationError: The problem has no gradients.

    Source: ours; gradient-enhanced regression as in Morris, Mitchell, Ylvisaker 1993.

    Example:
        >>> import moofusion
        >>> from pymoo.optimize import minimize
        >>> problem = moofusion.get_problem(
        ...     "vision4", tasks=["animals", "objects"], objective="loss")
        >>> algorithm = GradientMAP(rounds=1, generations=10)
        >>> minimize(problem, algorithm, ("n_eval", 4), seed=1).algorithm.n_gradients_taken
        3
    """

    def __init__(
        self,
        *,
        n_gradients: int | None = None,
        n_samples: int | None = None,
        n_verify: int | None = None,
        rounds: int = 2,
        design: str = "spread",
        split: str | None = None,
        search: Search | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            n_samples=n_samples, n_verify=n_verify, rounds=rounds, search=search, **kwargs
        )
        if n_gradients is not None and n_gradients < 1:
            raise ConfigurationError(f"n_gradients must be at least 1, got {n_gradients}")
        if design not in _DESIGNS:
            raise UnknownNameError("design of GradientMAP", design, _DESIGNS)
        if self.surrogate_kind != "quadratic":
            raise ConfigurationError("GradientMAP fits quadratics; it takes no other surrogate")
        self.n_gradients, self.design, self.gradient_split = n_gradients, design, split

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        if not hasattr(problem, "losses_and_grads"):
            raise ConfigurationError(
                f"GradientMAP needs gradients of the losses, which {type(problem).__name__} does "
                "not offer; use MAP"
            )
        super()._setup(problem, **kwargs)
        self._is_loss = np.array([t.metric.name == "loss" for t in self.targets])
        n, M = problem.n_var, problem.n_obj
        self._X, self._losses = np.empty((0, n)), np.empty((0, M))
        self._slopes = np.empty((0, M, n))

    @property
    def n_gradients_taken(self) -> int:
        """Points at which all gradients were taken."""
        return len(self._X)

    def _spent_otherwise(self) -> float:
        return 3.0 * self._single_cost * len(self._X)

    # ------------------------------------------------------------------ stages

    def _plan(self) -> Array:
        if self.stage == 0:
            self._take_gradients()
            if not self._is_loss.all():
                return anchor_points(self.problem)[0][: self._design_size()]
        size = self._design_size()
        if len(self.evaluated) < size:
            return self._designed_rest(size - len(self.evaluated))
        return self._front(len(self.evaluated) - size)

    def _design_size(self) -> int:
        if self.n_samples is not None:
            size = self.n_samples
        elif self._is_loss.all():
            size = 0
        else:
            size = self.problem.n_var + 3
            size = size if self.budget is None else min(size, -(-self.budget // 2))
        return size if self.budget is None else min(size, self.budget)

    def _designed_rest(self, count: int) -> Array:
        assert self.random_state is not None
        candidates = self._new(candidate_points(self.problem, _SUMS, self.random_state))
        return candidates[:count]

    def _take_gradients(self) -> None:
        split = self.gradient_split or self.problem.split
        X = self._gradient_points()
        pairs = [self.problem.losses_and_grads(x, split=split) for x in X]
        self._X = X
        self._losses = np.array([losses for losses, _ in pairs])
        self._slopes = np.array([slopes for _, slopes in pairs])

    def _gradient_points(self) -> Array:
        assert self.random_state is not None
        n = self.problem.n_var
        middle = self.problem.space.uniform(
            np.full((1, self.problem.space.n_experts), 1 / self.problem.space.n_experts)
        )
        if self.design == "curvature":
            step = np.where(middle[0] + _STEP <= self.problem.xu, _STEP, -_STEP)
            return np.vstack([middle, middle + np.diag(step)])
        count = self.n_gradients or n + 1
        candidates = candidate_points(self.problem, _SUMS, self.random_state, count=_CANDIDATES)
        return _d_optimal_gradients(candidates, middle, count)

    # ------------------------------------------------------------------ surrogate

    def _fit(self, population: Population) -> MergeSurrogate:
        usable = self._usable(population) if len(population) else population
        P, M, n = len(usable), self.problem.n_obj, self.problem.n_var
        X = np.asarray(usable.get("X"), float).reshape(P, n)
        losses = np.asarray(usable.get("loss"), float).reshape(P, M)
        values = self._values(usable).reshape(P, M) if P else np.empty((0, M))
        both = np.vstack([self._X, X])
        every_loss = np.vstack([self._losses, losses])
        slopes = np.vstack([self._slopes, np.full((P, M, n), np.nan)])
        if self.gradient_split not in (None, self.problem.split):
            # Losses of another split are another quantity: only its slopes are used.
            every_loss[: len(self._X)] = np.where(P > 0, np.nan, every_loss[: len(self._X)])
        loss_targets = [Target.of(t.name, _LOSS) for t in self.targets]
        of_loss = MergeSurrogate.fit(both, every_loss, loss_targets, gradients=slopes)
        priors: list[Surrogate | None] = [
            None if is_loss else model
            for is_loss, model in zip(self._is_loss, of_loss.models, strict=True)
        ]
        known = np.vstack([np.full((len(self._X), M), np.nan), values])
        known[:, self._is_loss] = every_loss[:, self._is_loss]
        G = self._constraint_values(usable) if P else None
        if G is not None:
            G = np.vstack([np.full((len(self._X), G.shape[1]), np.nan), G])
        return MergeSurrogate.fit(
            both, known, self.targets, gradients=slopes, priors=priors, constraints=G,
            **self._place(),
        )  # fmt: skip


def _d_optimal_gradients(candidates: Array, chosen: Array, count: int) -> Array:
    """Greedy D-optimal points whose values and gradients are known; `chosen` come first."""
    low, high = candidates.min(axis=0), candidates.max(axis=0)
    width = np.where(high > low, (high - low) / 2, 1.0)

    def equations(X: Array) -> Array:
        U = (X - (low + high) / 2) / width
        return np.concatenate([quadratic_features(U)[:, None], quadratic_slopes(U)], axis=1)

    rows = equations(candidates)
    present = equations(chosen).reshape(-1, rows.shape[2])
    information = present.T @ present + 1e-3 * np.eye(rows.shape[2])
    picked: list[int] = []
    for _ in range(max(count - len(chosen), 0)):
        inverse = np.linalg.inv(information)
        inner = np.einsum("cip,pq,cjq->cij", rows, inverse, rows, optimize=True)
        gains = np.linalg.slogdet(np.eye(rows.shape[1]) + inner)[1]
        gains[picked] = -np.inf
        best = int(gains.argmax())
        picked.append(best)
        information += rows[best].T @ rows[best]
    return np.vstack([chosen, candidates[picked]])[:count]
