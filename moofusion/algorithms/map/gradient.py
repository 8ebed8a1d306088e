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
from moofusion.problems.evaluator import gradient_cost
from moofusion.surrogates import MergeSurrogate, Surrogate, Target
from moofusion.surrogates.features import quadratic_features, quadratic_slopes
from moofusion.tasks.base import Metric

__all__ = ["GradientMAP"]

Array = NDArray[np.float64]

_DESIGNS = ("spread", "curvature")
_LOSS = Metric("loss", "min")
_CANDIDATES = 256
# Coefficient sums at which gradients are taken: there is no pilot.
_SUMS = (0.8, 1.2)
# Fewest samples that a gradient is taken on, where the split has as many.
_LEAST_SAMPLES = 64
# Step of the finite differences of gradients, in coefficients.
_STEP = 0.05


class GradientMAP(MAP):
    """MAP from gradients: ``n_var + 1`` points determine a quadratic.

    Gradients at m points tell its curvature along their m - 1 differences, so that fewer points
    leave some of it to the ridge, however many equations they count.

    The first `n_gradients` candidates are evaluated like any other, and gradients of all losses are
    taken there on a `share` of the samples, the same at every point: a slope needs less precision
    than a value. They cost three units a sample, which the cost axis sees
    (``problem.gradient_observers``): under ``("n_eval", N)`` they come on top, under a budget of
    cost they are part of it.
    Loss objectives are fitted to values and gradients on the log scale. Other metrics start from
    the loss surrogate of their task, which all evaluations map to the metric and correct.
    The rest of the budget verifies the predicted front in rounds, as in :class:`MAP`.

    Args:
        n_gradients: Points with gradients; by default ``n_var + 1``.
        n_samples: Evaluations before the first front, those of the gradients among them; by default
            no others where all objectives are losses, else ``n_var + 3`` more, in all at most half
            of the budget.
        n_verify: Points of the predicted front that are evaluated; by default the rest of the
            budget, else 20.
        rounds: Rounds in which they are evaluated.
        design: ``"spread"``: D-optimal for values and gradients. ``"curvature"``: the uniform merge
            and one step along each variable, ``n_var + 1`` points; finite differences of the
            gradients are Hessian-vector products, so that A is exact at that point (autograd
            through a merged transformer would need a second graph as large as the first).
        split: Split on which gradients are taken; by default the one that is searched.
        share: Share of its samples.
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
        share: float = 0.125,
        search: Search | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            n_samples=n_samples, n_verify=n_verify, rounds=rounds, search=search, **kwargs
        )
        if n_gradients is not None and n_gradients < 1:
            raise ConfigurationError(f"n_gradients must be at least 1, got {n_gradients}")
        if not 0 < share <= 1:
            raise ConfigurationError(f"share must be above 0 and at most 1, got {share}")
        if design not in _DESIGNS:
            raise UnknownNameError("design of GradientMAP", design, _DESIGNS)
        if self.surrogate_kind != "quadratic":
            raise ConfigurationError("GradientMAP fits quadratics; it takes no other surrogate")
        self.n_gradients, self.design, self.share = n_gradients, design, share
        self.gradient_split = split

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        if not hasattr(problem, "losses_and_grads"):
            raise ConfigurationError(
                f"GradientMAP needs gradients of the losses, which {type(problem).__name__} does "
                "not offer; use MAP"
            )
        super()._setup(problem, **kwargs)
        self._is_loss = np.array([t.metric.name == "loss" for t in self.targets])
        self._X = np.empty((0, problem.n_var))
        self._paid = 0.0

    @property
    def n_gradients_taken(self) -> int:
        """Points at which all gradients were taken."""
        return len(self._X)

    def _spent_otherwise(self) -> float:
        return self._paid

    # ------------------------------------------------------------------ stages

    def _plan(self) -> Array:
        if self.stage == 0:
            self._take_gradients()
            return self._X
        size = self._design_size()
        if len(self.evaluated) < size:
            return self._designed_rest(size - len(self.evaluated))
        return self._front(len(self.evaluated) - size)

    def _design_size(self) -> int:
        taken = len(self._X)
        if self.n_samples is not None:
            size = self.n_samples
        elif self._is_loss.all():
            size = taken
        else:
            size = taken + self.problem.n_var + 3
            size = size if self.budget is None else min(size, -(-self.budget // 2))
        size = max(size, taken)
        return size if self.budget is None else min(size, self.budget)

    def _designed_rest(self, count: int) -> Array:
        assert self.random_state is not None
        candidates = candidate_points(self.problem, _SUMS, self.random_state)
        return self._new(np.vstack([anchor_points(self.problem)[0], candidates]))[:count]

    def _take_gradients(self) -> None:
        assert self.random_state is not None
        split = self.gradient_split or self.problem.split
        X = self._gradient_points()
        rows = []
        for task in self.problem.tasks:
            size = task.n_samples(split)
            count = min(size, max(_LEAST_SAMPLES, round(self.share * size)))
            rows.append(np.sort(self.random_state.permutation(size)[:count]))
        pairs = [self.problem.losses_and_grads(x, split=split, indices=rows) for x in X]
        losses = np.array([losses for losses, _ in pairs])
        slopes = np.array([slopes for _, slopes in pairs])
        self._X, self._relative = X, slopes / losses[:, :, None]
        self._paid = float(len(X) * gradient_cost(self.problem.tasks, split, rows).cost)

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
        usable = self._usable(population)
        X = np.asarray(usable.get("X"), float)
        values, losses = self._values(usable), np.asarray(usable.get("loss"), float)
        slopes = np.full((*losses.shape, X.shape[1]), np.nan)
        # Slopes of the logarithm: its value on some of the samples may differ from that on all.
        known = {
            row.tobytes(): relative for row, relative in zip(self._X, self._relative, strict=True)
        }
        for i, row in enumerate(X):
            if row.tobytes() in known:
                slopes[i] = known[row.tobytes()] * losses[i, :, None]
        priors: list[Surrogate | None] | None = None
        if not self._is_loss.all():
            loss_targets = [Target.of(t.name, _LOSS) for t in self.targets]
            of_loss = MergeSurrogate.fit(X, losses, loss_targets, gradients=slopes)
            priors = [
                None if is_loss else model
                for is_loss, model in zip(self._is_loss, of_loss.models, strict=True)
            ]
        return MergeSurrogate.fit(
            X, values, self.targets, gradients=slopes, priors=priors,
            constraints=self._constraint_values(usable), **self._place(),
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
