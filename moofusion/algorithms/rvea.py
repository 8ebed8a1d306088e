"""RVEA that spends the same budget as every other algorithm, and returns what is feasible."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo import rvea
from pymoo.util.optimum import filter_optimum

from moofusion.algorithms.budget import evaluation_budget
from moofusion.errors import ConfigurationError

__all__ = ["RVEA"]


class _Survival(rvea.APDSurvival):
    """Angle-penalized distance, with reference vectors a hair shorter than one.

    Of exact unit vectors pymoo takes the arccos of cosines that rounding has lifted above one.
    """

    @property
    def V(self) -> NDArray[np.float64] | None:  # noqa: N802
        return self._vectors

    @V.setter
    def V(self, vectors: NDArray[np.float64] | None) -> None:  # noqa: N802
        self._vectors = None if vectors is None else vectors * (1 - 1e-14)


class RVEA(rvea.RVEA):
    """Reference vector guided evolutionary algorithm under any budget of evaluations.

    Its penalty grows over the run, so it must know how long the run will be. pymoo 0.6.2 replaces
    the termination for that purpose, stops one generation early, takes no other termination that
    counts evaluations, and lists infeasible and dominated members of the population as optima.

    Args:
        ref_dirs: Reference directions, shape ``(N, M)``.
        **kwargs: Passed to :class:`pymoo.algorithms.moo.rvea.RVEA`.

    Source: Cheng et al. 2016, A reference vector guided evolutionary algorithm.

    Raises:
        ConfigurationError: The termination limits neither evaluations nor their cost nor
            generations.
    """

    def __init__(self, ref_dirs: NDArray[np.float64], **kwargs: Any) -> None:
        super().__init__(ref_dirs, survival=_Survival(ref_dirs), **kwargs)

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        limit = evaluation_budget(self)
        if limit is not None:
            self.termination.n_max_gen = max(ceil(limit / self.n_offsprings), 1)
        if getattr(self.termination, "n_max_gen", None) is None:
            raise ConfigurationError(
                "rvea plans its penalty over the whole run; give it a budget of evaluations or of "
                "their cost"
            )

    def _set_optimum(self, **kwargs: Any) -> None:
        self.opt = filter_optimum(self.pop, least_infeasible=True)
