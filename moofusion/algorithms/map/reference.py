"""MAP as published: uniform design, non-linear least squares, NSGA-III; for comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from moofusion.algorithms.map.core import SurrogateAlgorithm
from moofusion.algorithms.map.selection import most_promising
from moofusion.errors import ConfigurationError
from moofusion.problems import SurrogateProblem
from moofusion.surrogates import (
    LeaveOneOut,
    Link,
    Log,
    Logit,
    MergeSurrogate,
    QuadraticSurrogate,
    Softplus,
    Support,
    Target,
    n_parameters,
)
from moofusion.surrogates.features import quadratic_features, unpacked

__all__ = ["ReferenceMAP"]

Array = NDArray[np.float64]


class ReferenceMAP(SurrogateAlgorithm):
    """The authors' procedure: uniform design in the unit cube, link fit, NSGA-III, verified.

    Coefficients are drawn uniformly from ``[0, 1]^K``, twice as many as the quadratic has
    parameters. Each metric is fitted by non-linear least squares on its own scale: a sigmoid of a
    quadratic for bounded metrics, a softplus for positive ones, a plain quadratic else. (The public
    code starts at ones, where the sigmoid is saturated, and stops; here the fit starts from the
    linear fit of the inverse link and converges.) NSGA-III, population 100, 25 generations,
    searches the surrogate within `bounds`; its front is thinned to the rest of the budget and
    evaluated, which the public code leaves out.

    Args:
        n_samples: Points of the design; by default 2p, but at most two thirds of the budget.
        n_verify: Points of the front that are evaluated; by default the rest, else 20.
        bounds: Bounds of the search; ``None``: those of the problem.
        batch_size: Candidates per iteration.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Source: Li et al. 2024, MAP (arXiv:2406.07529) and the code of its authors (luli-git/MAP),
    described in our own words.

    Raises:
        ConfigurationError: The problem has no merge coefficients.

    Example:
        >>> import moofusion
        >>> from pymoo.optimize import minimize
        >>> problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
        >>> result = minimize(problem, ReferenceMAP(n_samples=8), ("n_eval", 10), seed=1)
        >>> result.algorithm.evaluator.n_eval
        10
    """

    def __init__(
        self,
        *,
        n_samples: int | None = None,
        n_verify: int | None = None,
        bounds: tuple[float, float] | None = (-3.0, 3.0),
        batch_size: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(search="nsga3", generations=25, batch_size=batch_size, **kwargs)
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ConfigurationError(
                f"bounds must be (lower, upper) with lower < upper, got {bounds}"
            )
        self.n_samples, self.n_verify, self.bounds = n_samples, n_verify, bounds

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        super()._setup(problem, **kwargs)
        if not hasattr(problem, "space"):
            raise ConfigurationError(
                "ReferenceMAP samples merge coefficients and needs a MergeProblem, "
                f"got {type(problem).__name__}"
            )
        self.targets = [Target(t.name, t.metric, _published(t.link)) for t in self.targets]

    def _plan(self) -> Array:
        assert self.random_state is not None
        n = self.problem.n_var
        if self.stage == 0:
            size = self.n_samples or 2 * n_parameters(n)
            if self.n_samples is None and self.budget is not None:
                size = min(size, -(-2 * self.budget // 3))
            return np.asarray(self.random_state.uniform(0, 1, (size, n)))
        if self.stage == 1 and self.n_verify != 0:
            count = self.n_verify or self.left or 20
            return self._promise(count)
        # What the budget still holds goes on in the same way: more of the design.
        if self.n_verify is None and self.left:
            return np.asarray(self.random_state.uniform(0, 1, (self.left, n)))
        return np.empty((0, n))

    def _fit(self, population: Any) -> MergeSurrogate:
        usable = self._usable(population)
        X = np.asarray(usable.get("X"), float)
        Y = self._values(usable)
        models = [_nls(X, Y[:, j], target.link) for j, target in enumerate(self.targets)]
        G = self._constraint_values(usable)
        models += [] if G is None else [QuadraticSurrogate(ridge=0.0).fit(X, g) for g in G.T]
        place = self._place()
        if self.bounds is not None:
            place["xl"] = np.full(self.problem.n_var, self.bounds[0])
            place["xu"] = np.full(self.problem.n_var, self.bounds[1])
        return MergeSurrogate(self.targets, models, Support(X), **place)

    def _surrogate_problem(self, surrogate: MergeSurrogate, optimism: float) -> SurrogateProblem:
        return surrogate.problem(support=False, optimism=optimism)

    def _start(self, surrogate: MergeSurrogate) -> Array:
        assert self.random_state is not None
        box = surrogate.xl, surrogate.xu
        return np.asarray(self.random_state.uniform(*box, (100, self.problem.n_var)))

    def _scattered(self, problem: SurrogateProblem) -> Array:
        return np.empty((0, problem.n_var))

    def _promise(self, count: int, *, optimism: float = 0.0) -> Array:
        surrogate = self.surrogate
        X = self._searched(surrogate)
        F = self._normalize(surrogate.predict(X)[0])
        # The front is thinned for itself: the published procedure does not look at the design.
        nothing = np.empty((0, F.shape[1]))
        chosen = X[most_promising(F, nothing, min(count, len(X)))]
        self._remember(surrogate, chosen)
        return chosen


def _published(link: Link) -> Link:
    """The link of the paper in place of ours."""
    if isinstance(link, Logit):
        # So many samples that the continuity correction is none.
        return Logit(link.lower, link.upper, samples=10**9)
    return Softplus() if isinstance(link, Log) else link


def _nls(X: Array, y: Array, link: Link) -> QuadraticSurrogate:
    """Least squares of the metric itself, with the quadratic inside the link."""
    rows = quadratic_features(X)
    inner = y
    if isinstance(link, Logit):
        # Metrics at a bound have no finite log-odds to start from.
        margin = 5e-3 * (link.upper - link.lower)
        inner = np.clip(y, link.lower + margin, link.upper - margin)
    start = np.linalg.lstsq(rows, link.forward(inner), rcond=None)[0]
    found = least_squares(
        lambda beta: link.inverse(rows @ beta) - y,
        start,
        jac=lambda beta: link.inverse_slope(rows @ beta)[:, None] * rows,
        method="trf",
        x_scale="jac",
    )
    # Leave-one-out by the hat matrix of the linearized problem.
    hat = np.einsum("pi,ip->p", found.jac, np.linalg.pinv(found.jac))
    left_out = y + found.fun / np.maximum(1 - hat, 1e-3)
    if isinstance(link, Logit):
        left_out, y = (
            np.clip(v, link.lower + margin / 10, link.upper - margin / 10) for v in (left_out, y)
        )
    loo = LeaveOneOut(link.forward(left_out), link.forward(y), float("nan"))
    n = X.shape[1]
    A, b, e = unpacked(found.x, np.zeros(n), np.ones(n))
    return QuadraticSurrogate.known(A, b, e, loo=loo)
