"""Random search: the control that every other algorithm has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.sampling import Sampling

from moofusion.algorithms.proposal import ProposalAlgorithm
from moofusion.algorithms.sampling import CoefficientSampling

__all__ = ["RandomSearch"]


class RandomSearch(ProposalAlgorithm):
    """Independent random candidates; the result is their non-dominated subset.

    Args:
        sampling: Any pymoo sampling; by default :class:`CoefficientSampling`, the region in
            which the evolutionary algorithms start as well.
        batch_size: Candidates per iteration.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Example:
        >>> import moofusion
        >>> from pymoo.optimize import minimize
        >>> problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
        >>> result = minimize(problem, RandomSearch(batch_size=3), ("n_eval", 3), seed=1)
        >>> result.algorithm.evaluator.n_eval
        3
    """

    def __init__(
        self, *, sampling: Sampling | None = None, batch_size: int = 20, **kwargs: Any
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        self.sampling = sampling if sampling is not None else CoefficientSampling()

    def _batch(self, size: int) -> NDArray[np.float64]:
        drawn = self.sampling.do(self.problem, size, random_state=self.random_state)
        return np.asarray(drawn.get("X"), float)
