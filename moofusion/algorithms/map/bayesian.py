"""Bayesian MAP: small rounds that add points where the predicted front may be better still."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.map.algorithm import MAP
from moofusion.algorithms.map.core import Search
from moofusion.algorithms.map.design import candidate_points
from moofusion.errors import ConfigurationError, UnknownNameError

__all__ = ["BayesianMAP"]

Array = NDArray[np.float64]

_SCHEMES = ("hypervolume", "bins")
_BINS = 10


class BayesianMAP(MAP):
    """MAP in rounds: a small design, then a few points at a time, refitted on everything.

    ``scheme="hypervolume"``: a round takes the points of the largest hypervolume improvement, where
    predictions are moved by `optimism` standard deviations (delta method) towards better values:
    points that are promising or uncertain. The last round has no optimism.

    ``scheme="bins"``: the authors' scheme. Candidates are sorted into bins by coefficient
    sum and leading expert; a bin scores ``mean + variance / 2`` of the squared leave-one-out errors
    of its points, and a round draws from bins in proportion to their scores. Two thirds of the
    rest of the budget go there, the last third verifies the front. Unlike in the public code,
    scores see the points of earlier rounds, and no point is overwritten.

    Args:
        n_samples: Points of the design; by default as many as parameters, but at most a third of
            the budget.
        n_verify: Points after the design; by default the rest of the budget, else 20.
        rounds: Rounds in which they are evaluated.
        optimism: Standard deviations.
        scheme: ``"hypervolume"`` or ``"bins"``.
        surrogate: ``"quadratic"`` or ``"gp"``.
        search: What searches the surrogate (see :class:`SurrogateAlgorithm`).
        **kwargs: Passed to :class:`MAP`.

    Source: Li et al. 2024, MAP (arXiv:2406.07529), Bayesian MAP. Optimism: Srinivas et al. 2010.

    Example:
        >>> import moofusion
        >>> from pymoo.optimize import minimize
        >>> problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
        >>> algorithm = BayesianMAP(n_samples=7, rounds=2, generations=10)
        >>> minimize(problem, algorithm, ("n_eval", 10), seed=1).algorithm.evaluator.n_eval
        10
    """

    _design_part: ClassVar[int] = 3

    def __init__(
        self,
        *,
        n_samples: int | None = None,
        n_verify: int | None = None,
        rounds: int = 5,
        optimism: float = 1.0,
        scheme: str = "hypervolume",
        surrogate: str = "quadratic",
        search: Search | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            n_samples=n_samples, n_verify=n_verify, rounds=rounds, surrogate=surrogate,
            search=search, **kwargs,
        )  # fmt: skip
        if scheme not in _SCHEMES:
            raise UnknownNameError("scheme of BayesianMAP", scheme, _SCHEMES)
        if not (np.isfinite(optimism) and optimism >= 0):
            raise ConfigurationError(f"optimism must be a number >= 0, got {optimism}")
        self.optimism, self.scheme = float(optimism), scheme

    def _front(self, verified: int) -> Array:
        wanted = self._wanted(verified)
        rest = wanted - verified
        if rest <= 0:
            return np.empty((0, self.problem.n_var))
        if self.scheme == "bins" and verified < 2 * wanted // 3:
            share = -(-2 * wanted // (3 * max(self.rounds - 1, 1)))
            return self._from_bins(min(share, 2 * wanted // 3 - verified))
        share = rest if self.scheme == "bins" else self._share(wanted, rest)
        optimism = self.optimism if share < rest and self.scheme != "bins" else 0.0
        return self._promise(share, optimism=optimism)

    # ------------------------------------------------------------------ bins

    def _from_bins(self, count: int) -> Array:
        assert self.random_state is not None
        usable = self._usable(self.evaluated)
        X = np.asarray(usable.get("X"), float)
        errors = np.mean(
            [(m.loo.observed - m.loo.predicted) ** 2 for m in self.surrogate.models], 0
        )
        candidates = self._new(candidate_points(self.problem, self.sums, self.random_state))
        bins, own = self._bins(candidates), self._bins(X)
        overall = errors.mean() + errors.var() / 2
        score = np.empty(len(candidates))
        for name in np.unique(bins):
            inside = errors[own == name]
            value = inside.mean() + inside.var() / 2 if len(inside) else overall
            # A bin's score is shared by its candidates: bins are drawn, then points within.
            score[bins == name] = value / (bins == name).sum()
        chance = score / score.sum() if score.sum() > 0 else None
        count = min(count, len(candidates))
        return np.asarray(
            candidates[self.random_state.choice(len(candidates), count, False, chance)]
        )

    def _bins(self, X: Array) -> NDArray[np.int64]:
        """Bin of each decision vector: leading variable, and tenth of the range of the sum."""
        total = X.sum(axis=1)
        layer = np.clip((total / self.sums[1] * _BINS).astype(int), 0, _BINS - 1)
        return np.asarray(X.argmax(axis=1) * _BINS + layer, np.int64)
