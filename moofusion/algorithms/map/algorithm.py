"""MAP: a designed sample, a surrogate of every metric, its front, and the front verified."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.map.core import Search, SurrogateAlgorithm
from moofusion.algorithms.map.design import (
    anchor_points,
    candidate_points,
    d_optimal,
    default_samples,
    shell,
)
from moofusion.errors import ConfigurationError

__all__ = ["MAP"]

Array = NDArray[np.float64]

# Points to verify where neither the caller nor the budget says how many.
_DEFAULT_VERIFY = 20


class MAP(SurrogateAlgorithm):
    """Model merging with amortized Pareto fronts: design, fit, search, verify.

    1. *Design*: the uniform merge, experts, base, a pilot along the uniform direction that tells
       which coefficient sums are worth it, and the rest greedily D-optimal for a quadratic.
    2. *Fit*: a surrogate of each metric on its link scale (see :class:`MergeSurrogate`).
    3. *Search*: a pymoo algorithm on the surrogates, within the sampled support, for free.
    4. *Verify*: the points of the predicted front that promise most are really evaluated, in
       `rounds` between which the surrogates learn from them.

    Exactly the budget ``("n_eval", N)`` is spent unless `n_verify` is given. Every search space is
    possible; with ``n_var`` variables a quadratic has ``(n_var + 1)(n_var + 2) / 2`` parameters,
    and fewer samples make a ridge fit, which the surrogate's table says.

    Args:
        n_samples: Points of the design; by default as many as parameters, but at most half of the
            budget.
        n_verify: Points of the predicted front that are evaluated; by default the rest of the
            budget, else 20.
        rounds: Rounds in which they are evaluated.
        surrogate: ``"quadratic"`` or ``"gp"``.
        search: What searches the surrogate (see :class:`SurrogateAlgorithm`).
        generations: Generations of that search.
        batch_size: Candidates per iteration.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Attributes:
        sums: Interval of coefficient sums that is sampled, once the pilot was evaluated.

    Source: Li et al. 2024, MAP (arXiv:2406.07529). Design, link, weights, support, and
    verification are ours; :class:`ReferenceMAP` is the published procedure.

    Example:
        >>> import moofusion
        >>> from pymoo.optimize import minimize
        >>> problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
        >>> result = minimize(problem, MAP(n_samples=8, generations=10), ("n_eval", 10), seed=1)
        >>> result.algorithm.evaluator.n_eval, len(result.algorithm.predicted.X)
        (10, 2)
    """

    # The default design takes at most this part of the budget: one in so many evaluations.
    _design_part: ClassVar[int] = 2

    def __init__(
        self,
        *,
        n_samples: int | None = None,
        n_verify: int | None = None,
        rounds: int = 3,
        surrogate: str = "quadratic",
        search: Search | None = None,
        generations: int = 30,
        batch_size: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            surrogate=surrogate, search=search, generations=generations, batch_size=batch_size,
            **kwargs,
        )  # fmt: skip
        for name, value in (("n_samples", n_samples), ("rounds", rounds)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {value}")
        if n_verify is not None and n_verify < 0:
            raise ConfigurationError(f"n_verify must be at least 0, got {n_verify}")
        self.n_samples, self.n_verify, self.rounds = n_samples, n_verify, rounds
        self.sums = (0.0, 1.5)

    def _plan(self) -> Array:
        done = len(self.evaluated)
        size = self._design_size()
        if self.stage == 0:
            self._anchors, self._sums = anchor_points(self.problem)
            return self._anchors[:size]
        if done < size:
            return self._designed(size - done)
        return self._front(done - size)

    def _design_size(self) -> int:
        size = self.n_samples
        if size is None:
            size = default_samples(self.problem.n_var, self.budget, part=self._design_part)
        return size if self.budget is None else min(size, self.budget)

    def _designed(self, count: int) -> Array:
        """The D-optimal rest of the design, at the coefficient sums that the pilot found."""
        assert self.random_state is not None
        known = {row.tobytes(): total for row, total in zip(self._anchors, self._sums, strict=True)}
        usable = self._usable(self.evaluated)
        X = np.asarray(usable.get("X"), float)
        totals = np.array([known.get(row.tobytes(), np.nan) for row in X])
        pilot = np.isfinite(totals)
        self.sums = shell(totals[pilot], np.asarray(usable.get("F"), float)[pilot])
        candidates = self._new(candidate_points(self.problem, self.sums, self.random_state))
        return d_optimal(candidates, X, count)

    def _front(self, verified: int) -> Array:
        wanted = self._wanted(verified)
        rest = wanted - verified
        if rest <= 0:
            return np.empty((0, self.problem.n_var))
        return self._promise(self._share(wanted, rest))

    def _wanted(self, verified: int) -> int:
        """Evaluations after the design, in all."""
        if self.n_verify is not None:
            return self.n_verify
        return _DEFAULT_VERIFY if self.left is None else verified + self.left

    def _share(self, wanted: int, rest: int) -> int:
        """Evaluations of the next round."""
        share = -(-wanted // self.rounds)
        # A last round of a few points is not worth a search of its own.
        return rest if rest < share + share / 2 else share
