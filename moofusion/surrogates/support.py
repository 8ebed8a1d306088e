"""The sampled support: where a surrogate interpolates rather than extrapolates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.surrogates.features import n_parameters, quadratic_features

__all__ = ["Support"]

Array = NDArray[np.float64]


class Support:
    """Region around evaluated points: their bounding box, and no more leverage than they have.

    The leverage ``h(c) = f(c)' (F'F)^-1 f(c)`` of a candidate says how far its features f are from
    those of the points, measured by what the points determine; the largest leverage of a point
    itself is the limit (the effective regression region of Cook 1979). The features are
    quadratic where there are enough points for them, else linear.

    Args:
        X: Evaluated decision vectors, shape ``(P, n_var)``.
        slack: Factor on the limit.

    Example:
        >>> support = Support(np.array([[0, 0], [1, 0], [0, 1], [0.5, 0.5]]))
        >>> (support.violation(np.array([[0.3, 0.3], [2.0, 2.0]])) <= 0).tolist()
        [True, False]
    """

    def __init__(self, X: Array, *, slack: float = 1.0) -> None:
        self.X = np.atleast_2d(np.asarray(X, float))
        self.slack = slack
        n = self.X.shape[1]
        self.lower, self.upper = self.X.min(axis=0), self.X.max(axis=0)
        self._center = (self.lower + self.upper) / 2
        width = self.upper - self.lower
        self._scale = np.where(width > 0, width / 2, 1.0)
        self._quadratic = len(self.X) >= n_parameters(n) + max(n // 2, 1)
        rows = self._features(self.X)
        gram = rows.T @ rows
        gram += 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram))
        self._inverse = np.linalg.inv(gram)
        self.limit = slack * float(self.leverage(self.X).max())

    def _features(self, X: Array) -> Array:
        U = (np.atleast_2d(np.asarray(X, float)) - self._center) / self._scale
        return quadratic_features(U) if self._quadratic else np.hstack([np.ones((len(U), 1)), U])

    def leverage(self, X: Array) -> Array:
        """Leverage ``(P,)`` of decision vectors ``(P, n_var)``."""
        rows = self._features(X)
        return np.asarray(np.einsum("pi,pi->p", rows @ self._inverse, rows))

    def violation(self, X: Array) -> Array:
        """How far each candidate is outside, shape ``(P,)``; at most 0 inside (pymoo's G)."""
        X = np.atleast_2d(np.asarray(X, float))
        box = np.maximum((self.lower - X) / self._scale, (X - self.upper) / self._scale).max(axis=1)
        reach = self.leverage(X) / self.limit - 1
        # Points on the border of the box belong to it, also after a float operation or two.
        return np.asarray(np.maximum(np.maximum(box, reach) - 1e-9, -1.0))

    def state(self) -> dict[str, Any]:
        """The points and the slack."""
        return {"X": self.X, "slack": np.array(self.slack)}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Support:
        """The support again from its state."""
        return cls(state["X"], slack=float(state["slack"]))
