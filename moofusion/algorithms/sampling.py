"""Where searches start: coefficients in the region in which merged models work at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.sampling import Sampling

from moofusion.errors import ConfigurationError

__all__ = ["CoefficientSampling"]

Array = NDArray[np.float64]


class CoefficientSampling(Sampling):
    """Random merges ``c = s * d`` with ``d ~ Dirichlet(1)`` and ``s ~ U(0, largest_sum)``.

    Uniform samples of the box ``[0, 1]^K`` have a coefficient sum around K / 2; for K of three or
    more most of them destroy every task. Here the direction is uniform on the simplex and the sum
    stays moderate. With several groups every group mixes the common draw with one of its own.
    Draws are clipped to the bounds of the space; parameters of the merge method that are searched
    are uniform within theirs. On a problem without merge coefficients it
    falls back to uniform sampling of the bounds.

    Args:
        largest_sum: Largest sum of the coefficients.
        references: Begin with what needs no search, as far as there is room: the average, task
            arithmetic with 0.3, and each expert alone. A search from there is at least as good
            as each of them; random starts of few evaluations often are not.

    Example:
        >>> import moofusion
        >>> problem = moofusion.get_problem("vision4")
        >>> X = CoefficientSampling().do(problem, 5, random_state=np.random.default_rng(0)).get("X")
        >>> X.shape
        (5, 4)
        >>> warm = CoefficientSampling(references=True)
        >>> warm.do(problem, 3, random_state=np.random.default_rng(0)).get("X")
        array([[0.25, 0.25, 0.25, 0.25],
               [0.3 , 0.3 , 0.3 , 0.3 ],
               [1.  , 0.  , 0.  , 0.  ]])
    """

    def __init__(self, *, largest_sum: float = 1.5, references: bool = False) -> None:
        super().__init__()
        if not largest_sum > 0:
            raise ConfigurationError(f"largest_sum must be positive, got {largest_sum}")
        self.largest_sum = largest_sum
        self.references = references

    def _do(
        self,
        problem: Any,
        n_samples: int,
        *args: Any,
        random_state: np.random.Generator | None = None,
        **kwargs: Any,
    ) -> Array:
        if random_state is None:
            raise ConfigurationError("CoefficientSampling needs random_state, a numpy Generator")
        space = getattr(problem, "space", None)
        if space is None:
            return random_state.uniform(problem.xl, problem.xu, (n_samples, problem.n_var))
        G, K = space.n_groups, space.n_experts
        known = reference_coefficients(K)[:n_samples] if self.references else np.empty((0, K))
        drawn = self._drawn(n_samples - len(known), G, K, random_state)
        L = np.concatenate([np.repeat(known[:, None], G, axis=1), drawn])
        return np.asarray(space.scattered(space.decision(L), random_state))

    def _drawn(self, n: int, G: int, K: int, random_state: np.random.Generator) -> Array:
        """Random coefficients, shape ``(n, G, K)``."""
        sums = random_state.uniform(0, self.largest_sum, (n, 1, 1))
        common = sums * random_state.dirichlet(np.ones(K), size=(n, 1))
        if G == 1:
            return common
        own = sums * random_state.dirichlet(np.ones(K), size=(n, G))
        mix = random_state.uniform(0, 1, (n, 1, 1))
        return np.asarray((1 - mix) * common + mix * own)


def reference_coefficients(n_experts: int) -> Array:
    """Task-wise coefficients of the average, task arithmetic and each expert, ``(K + 2, K)``."""
    K = n_experts
    return np.vstack([np.full((1, K), 1 / K), np.full((1, K), 0.3), np.eye(K)])
