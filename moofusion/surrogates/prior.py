"""A surrogate that starts from another one: a related quantity, corrected by few evaluations."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError
from moofusion.surrogates.base import LeaveOneOut, Surrogate, checked_data
from moofusion.surrogates.quadratic import QuadraticSurrogate

__all__ = ["PriorSurrogate"]

Array = NDArray[np.float64]


class PriorSurrogate(Surrogate):
    """``z(c) = a0 + a1 g(c) + q(c)``: line in a prior g, plus a quadratic with a ridge.

    The accuracy of a merged model follows its loss closely. Where gradients have made a good
    surrogate g of the loss, two numbers map it to the accuracy, and the quadratic q, shrunk as
    leave-one-out asks for, corrects the rest.

    Args:
        prior: A fitted surrogate of a related quantity.

    Example:
        >>> X = np.linspace(0, 1, 6)[:, None]
        >>> loss = QuadraticSurrogate().fit(X, X[:, 0] ** 2)
        >>> model = PriorSurrogate(loss).fit(X[::2], 1 - 2 * X[::2, 0] ** 2)
        >>> model.predict([[0.5]])[0].round(6)
        array([0.5])
    """

    kind: ClassVar[str] = "prior"

    def __init__(self, prior: Surrogate) -> None:
        self.prior = prior
        self.line = np.array([0.0, 0.0])
        self._rest: QuadraticSurrogate | None = None

    def fit(
        self,
        X: Array,
        z: Array,
        *,
        noise: Array | None = None,
        gradients: Array | None = None,
        relevance: Array | None = None,
    ) -> PriorSurrogate:
        """Fit the line, then the quadratic to what it leaves (see :meth:`Surrogate.fit`)."""
        if gradients is not None:
            raise ConfigurationError("a surrogate with a prior takes values, not gradients")
        X, z, noise, _, relevance = checked_data(X, z, noise, None, relevance)
        g = self.prior.predict(X)[0]
        weight = np.ones(len(z)) if noise is None else 1 / np.sqrt(noise + z.var() * 0.01 + 1e-12)
        rows = np.stack([np.ones(len(g)), g], axis=1)
        self.line = np.linalg.lstsq(rows * weight[:, None], z * weight, rcond=None)[0]
        self._rest = QuadraticSurrogate().fit(
            X, z - rows @ self.line, noise=noise, relevance=relevance
        )
        loo = self._rest.loo
        self._loo = LeaveOneOut(loo.predicted + rows @ self.line, z, loo.noise)
        self.n_points = len(X)
        return self

    def predict(self, X: Array) -> tuple[Array, Array]:
        """Mean and standard deviation; those of prior and correction add as variances."""
        rest = self._fitted()
        mean, std = self.prior.predict(X)
        more, uncertain = rest.predict(X)
        return self.line[0] + self.line[1] * mean + more, np.hypot(self.line[1] * std, uncertain)

    def gradient(self, X: Array) -> Array:
        """Derivative of the mean, shape ``(P, n_var)``."""
        return np.asarray(self.line[1] * self.prior.gradient(X) + self._fitted().gradient(X))

    def _fitted(self) -> QuadraticSurrogate:
        if self._rest is None:
            raise ConfigurationError("the surrogate has not been fitted")
        return self._rest

    @property
    def loo(self) -> LeaveOneOut:
        """Leave-one-out predictions of the correction; the line and the prior are kept."""
        self._fitted()
        return self._loo

    @property
    def note(self) -> str:
        """Names the line."""
        return f"{self.line[0]:.3g} + {self.line[1]:.3g} * log-loss surrogate, corrected"

    def state(self) -> dict[str, Any]:
        """States of both parts, and the line."""
        return {
            "prior": self.prior.state(),
            "rest": self._fitted().state(),
            "line": self.line,
            "predicted": self._loo.predicted,
            "observed": self._loo.observed,
            "noise": np.array(self._loo.noise),
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> PriorSurrogate:
        """The surrogate again from its state; the prior is a quadratic."""
        self = cls(QuadraticSurrogate.restore(state["prior"]))
        self._rest = QuadraticSurrogate.restore(state["rest"])
        self.line = state["line"]
        self._loo = LeaveOneOut(state["predicted"], state["observed"], float(state["noise"]))
        self.n_points = len(state["observed"])
        return self
