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

    Example:
        >>> import moofusion
        >>> problem = moofusion.get_problem("vision4")
        >>> X = CoefficientSampling().do(problem, 5, random_state=np.random.default_rng(0)).get("X")
        >>> X.shape
        (5, 4)
    """

    def __init__(self, *, largest_sum: float = 1.5) -> None:
        super().__init__()
        if not largest_sum > 0:
            raise ConfigurationError(f"largest_sum must be positive, got {largest_sum}")
        self.largest_sum = largest_sum

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
        sums = random_state.uniform(0, self.largest_sum, (n_samples, 1, 1))
        common = sums * random_state.dirichlet(np.ones(K), size=(n_samples, 1))
        if G == 1:
            return np.asarray(space.scattered(space.decision(common), random_state))
        own = sums * random_state.dirichlet(np.ones(K), size=(n_samples, G))
        mix = random_state.uniform(0, 1, (n_samples, 1, 1))
        X = space.decision((1 - mix) * common + mix * own)
        return np.asarray(space.scattered(X, random_state))
