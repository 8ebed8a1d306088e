"""The predictions of surrogates as a pymoo problem: thousands of candidates in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.core.problem import Problem

from moofusion.errors import ConfigurationError
from moofusion.surrogates import MergeSurrogate

__all__ = ["SurrogateProblem"]


class SurrogateProblem(Problem):
    """Minimize predicted objectives; nothing is merged and nothing measured.

    Objectives, bounds and `space` are those of the real problem, so that its algorithms and
    samplings run here unchanged. The first constraint keeps the search inside the sampled support
    (see :class:`moofusion.surrogates.Support`); predicted constraints of the real problem follow.
    Besides `F` and `G` the population holds ``std``, the standard deviations ``(M,)``.

    Args:
        surrogate: Fitted surrogates.
        support: Whether the search stays where points were sampled.
        optimism: Standard deviations by which predictions are moved towards better values.
        **kwargs: Passed to :class:`pymoo.core.problem.Problem`.

    Example:
        >>> from moofusion.surrogates import Target
        >>> from moofusion.tasks.base import Metric
        >>> X = np.random.default_rng(0).uniform(size=(20, 2))
        >>> targets = [Target.of(name, Metric("y", "min")) for name in "ab"]
        >>> surrogate = MergeSurrogate.fit(X, X**2, targets)
        >>> SurrogateProblem(surrogate).evaluate(np.full((10_000, 2), 0.5))[0].shape
        (10000, 2)
    """

    def __init__(
        self,
        surrogate: MergeSurrogate,
        *,
        support: bool = True,
        optimism: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if not np.isfinite(optimism):
            raise ConfigurationError(f"optimism must be a finite number, got {optimism}")
        self.surrogate = surrogate
        self.space = surrogate.space
        self.optimism = optimism
        self.restricted = support
        super().__init__(
            n_var=surrogate.n_var,
            n_obj=len(surrogate.targets),
            n_ieq_constr=int(support) + len(surrogate.constraint_models),
            xl=surrogate.xl,
            xu=surrogate.xu,
            vtype=float,
            **kwargs,
        )

    def name(self) -> str:
        """Kind of the surrogates."""
        return f"{self.surrogate.kind} surrogate"

    def _evaluate(self, X: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        rows = np.atleast_2d(np.asarray(X, float))
        F, std = self.surrogate.predict(rows, optimism=self.optimism)
        columns = [self.surrogate.support.violation(rows)[:, None]] if self.restricted else []
        found = {"F": F, "std": std}
        if self.n_ieq_constr:
            found["G"] = np.hstack([*columns, self.surrogate.constraints(rows)])
        if "dF" in out and not self.elementwise:
            found["dF"] = self.surrogate.gradients(rows)
        single = self.elementwise and np.ndim(X) == 1
        out.update({key: value[0] if single else value for key, value in found.items()})

    def _evaluate_elementwise(self, X: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super()._evaluate_elementwise(X, out, *args, **kwargs)
        # pymoo does not tell single evaluations what is asked for.
        if "dF" in out:
            out["dF"] = self.surrogate.gradients(X)

    def __deepcopy__(self, memo: dict[int, Any]) -> SurrogateProblem:
        # Fitted surrogates do not change: copies share them.
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(self.__dict__)
        return twin
