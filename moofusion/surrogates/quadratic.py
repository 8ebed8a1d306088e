"""The quadratic surrogate: weighted ridge regression on values and, where known, gradients."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr, solve_triangular

from moofusion.errors import ConfigurationError
from moofusion.surrogates.base import LeaveOneOut, Surrogate, checked_data
from moofusion.surrogates.features import (
    n_parameters,
    quadratic_features,
    quadratic_slopes,
    unpacked,
)

__all__ = ["QuadraticSurrogate"]

Array = NDArray[np.float64]

# Candidates for the ridge, relative to the mean squared norm of a column.
_RIDGES = tuple(10.0**power for power in np.arange(-9.0, 1.1, 0.5))
# Stands for "no ridge" where there are fewer equations than parameters: the minimum norm.
_TINY = 1e-10
# More parameters than this take gigabytes and minutes.
_MAX_PARAMETERS = 3000


class QuadraticSurrogate(Surrogate):
    """``z(c) = e + b.c + c'Ac / 2`` by weighted least squares with a ridge.

    Every value is one equation and every gradient ``n_var`` more. Values are weighted by
    ``1 / (noise + misfit / relevance)``; the misfit is the variance that the known noise does not
    explain, estimated from leave-one-out residuals. The ridge (on slopes and curvatures, not on e)
    is the one of the smallest leave-one-out error. With as many independent equations as
    parameters, no known noise and no error left, nothing is shrunk: a quadratic is recovered
    exactly. Below that the fit is a ridge fit with minimum norm as its limit, and :attr:`note` says
    so.

    Args:
        ridge: Relative to the mean squared column norm; None: by leave-one-out.
        center: Point around which the ridge shrinks, shape ``(n_var,)``; None: mid of the data.
        scale: Unit of every variable; None: half the range of the data.
        gradient_weight: Weight of a gradient equation relative to a value, in the unit of `scale`.

    Raises:
        ConfigurationError: More parameters than can be handled, or a negative ridge.

    Source: Li et al. 2024, MAP (arXiv:2406.07529), eq. of the surrogate; leave-one-out by the hat
    matrix: Allen 1974 (PRESS).

    Example:
        >>> X = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [2, 0], [0, 2]], float)
        >>> model = QuadraticSurrogate().fit(X, 1 + 2 * X[:, 0] - X[:, 1] + 3 * X[:, 0] * X[:, 1])
        >>> model.A.round(6) + 0.0
        array([[0., 3.],
               [3., 0.]])
        >>> model.b.round(6), round(model.e, 6)
        (array([ 2., -1.]), 1.0)
    """

    kind: ClassVar[str] = "quadratic"

    def __init__(
        self,
        *,
        ridge: float | None = None,
        center: Array | None = None,
        scale: Array | None = None,
        gradient_weight: float = 1.0,
    ) -> None:
        if ridge is not None and not ridge >= 0:
            raise ConfigurationError(f"ridge must be at least 0, got {ridge}")
        if not gradient_weight > 0:
            raise ConfigurationError(f"gradient_weight must be positive, got {gradient_weight}")
        self._ridge, self._center, self._scale = ridge, center, scale
        self._gradient_weight = gradient_weight
        self.ridge = 0.0
        self.misfit = 0.0
        self.rank = 0
        self.n_equations = 0
        self._loo: LeaveOneOut | None = None

    # ------------------------------------------------------------------ fit

    def fit(
        self,
        X: Array,
        z: Array,
        *,
        noise: Array | None = None,
        gradients: Array | None = None,
        relevance: Array | None = None,
    ) -> QuadraticSurrogate:
        """Fit to values and gradients (see :meth:`Surrogate.fit`)."""
        X, z, noise, gradients, relevance = checked_data(X, z, noise, gradients, relevance)
        n = X.shape[1]
        p = n_parameters(n)
        if p > _MAX_PARAMETERS:
            raise ConfigurationError(
                f"a quadratic in {n} variables has {p} parameters, more than the "
                f"{_MAX_PARAMETERS} that can be fitted; use a space with fewer variables (task-"
                "wise has one per expert, depth-spline a few) or the Gaussian-process surrogate "
                "(surrogate='gp')"
            )
        low, high = X.min(axis=0), X.max(axis=0)
        half = np.where(high > low, (high - low) / 2, 1.0)
        self.center = (low + high) / 2 if self._center is None else np.asarray(self._center, float)
        self.scale = half if self._scale is None else np.asarray(self._scale, float)
        self.n_points = len(X)
        rows, target, group, is_value = self._equations(X, z, gradients)
        self.n_equations = len(rows)
        self.rank = int(np.linalg.matrix_rank(rows))
        floor = None if noise is None else np.maximum(noise, 1e-12)
        relevant = np.ones(len(X)) if relevance is None else np.maximum(relevance, 1e-6)
        misfit, known = 0.0, floor is not None
        for _ in range(4 if known else 1):
            weight = relevant[group]
            if floor is not None:
                weight = 1 / (floor[group] + misfit / weight)
            weight = np.where(is_value, weight, weight * self._gradient_weight**2)
            chosen = self._choose(rows, target, weight, group, known)
            left_out = _left_out(rows, target, weight, group, chosen)
            residual = (target - left_out)[is_value]
            if floor is not None:
                # What leave-one-out errors are beyond the noise, without outliers.
                squares = np.minimum(residual**2, 25 * np.median(residual**2))
                excess = np.average(squares, weights=relevant[group][is_value])
                misfit = max(float(excess - np.median(floor)), 0.0)
        self.misfit = misfit
        self.ridge = chosen
        self._solve(rows, target, weight, chosen)
        values = np.flatnonzero(is_value)
        if known and len(values):
            spread = float(np.mean(weight[values] * (target - left_out)[values] ** 2))
            self._covariance *= max(spread, 1.0)
        else:
            # Equations of unknown noise: it is what leave-one-out leaves.
            self._covariance *= float(np.mean(weight * (target - left_out) ** 2))
        level = float("nan") if floor is None else float(np.sqrt(floor[group[values]].mean()))
        self._loo = LeaveOneOut(left_out[values], target[values], level)
        return self

    def _equations(
        self, X: Array, z: Array, gradients: Array | None
    ) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]:
        """Rows, right-hand sides, the point each belongs to, and whether it is a value."""
        U = (X - self.center) / self.scale
        values = np.flatnonzero(np.isfinite(z))
        rows, target, group = quadratic_features(U)[values], z[values], values
        is_value = np.ones(len(values), bool)
        if gradients is not None:
            known = np.flatnonzero(np.isfinite(gradients).all(axis=1))
            slopes = quadratic_slopes(U[known])
            rows = np.vstack([rows, slopes.reshape(-1, slopes.shape[2])])
            target = np.concatenate([target, (gradients[known] * self.scale).ravel()])
            group = np.concatenate([group, np.repeat(known, X.shape[1])])
            is_value = np.concatenate([is_value, np.zeros(len(target) - len(is_value), bool)])
        return rows, target, group, is_value

    def _choose(
        self,
        rows: Array,
        target: Array,
        weight: Array,
        group: NDArray[np.int64],
        noisy: bool,
    ) -> float:
        """The ridge of the smallest leave-one-out error; none at all where the fit is exact."""
        if self._ridge is not None:
            return self._ridge if self._ridge > 0 or self.rank == rows.shape[1] else _TINY
        if not noisy and self.rank == rows.shape[1]:
            plain = _fitted(rows, target, weight, 0.0)
            spread = float(np.abs(target - target.mean()).max())
            if float(np.abs(target - plain).max()) <= 1e-9 * max(spread, 1e-300):
                return 0.0
        errors = [
            float(np.sum(weight * (target - _left_out(rows, target, weight, group, ridge)) ** 2))
            for ridge in _RIDGES
        ]
        return float(_RIDGES[int(np.argmin(errors))])

    def _solve(self, rows: Array, target: Array, weight: Array, ridge: float) -> None:
        Q, R = _factor(rows, weight, ridge)
        top = Q[: len(rows)]
        self.beta = solve_triangular(R, top.T @ (np.sqrt(weight) * target))
        inverse = solve_triangular(R, np.eye(R.shape[0]))
        self._covariance = inverse @ inverse.T
        self.A, self.b, self.e = unpacked(self.beta, self.center, self.scale)

    # ------------------------------------------------------------------ use

    def predict(self, X: Array) -> tuple[Array, Array]:
        """Mean and standard deviation ``(P,)`` of each, in one pass over all candidates."""
        rows = quadratic_features(self._units(X))
        variance = np.einsum("pi,pi->p", rows @ self._covariance, rows)
        return rows @ self.beta, np.sqrt(np.maximum(variance, 0))

    def gradient(self, X: Array) -> Array:
        """``A c + b``, shape ``(P, n_var)``."""
        return np.asarray(np.atleast_2d(np.asarray(X, float)) @ self.A + self.b)

    def _units(self, X: Array) -> Array:
        X = np.atleast_2d(np.asarray(X, float))
        if X.shape[1] != len(self.center):
            raise ConfigurationError(
                f"surrogate: expected decision vectors of {len(self.center)} variables, got an "
                f"array of shape {X.shape}"
            )
        return np.asarray((X - self.center) / self.scale)

    @property
    def loo(self) -> LeaveOneOut:
        """Exact leave-one-out predictions: a left-out point takes its gradient with it."""
        if self._loo is None:
            raise ConfigurationError("the surrogate has not been fitted")
        return self._loo

    @property
    def covariance(self) -> Array:
        """Covariance of the fitted parameters, in the scaled variables, shape ``(p, p)``."""
        return np.asarray(self._covariance)

    @property
    def note(self) -> str:
        """Says when the data does not determine the quadratic."""
        p = n_parameters(len(self.center))
        if self.rank < p:
            return (
                f"{self.n_equations} equations of rank {self.rank} for {p} parameters: "
                "ridge fit with minimum norm, not determined by the data"
            )
        return ""

    @classmethod
    def known(
        cls, A: Array, b: Array, e: float, *, loo: LeaveOneOut, covariance: Array | None = None
    ) -> QuadraticSurrogate:
        """A quadratic that was fitted elsewhere, in unscaled variables."""
        self = cls()
        n = len(b)
        i, j = np.triu_indices(n)
        A = np.asarray(A, float)
        self.center, self.scale = np.zeros(n), np.ones(n)
        self.beta = np.concatenate([[e], b, np.where(i == j, A[i, j] / 2, A[i, j])])
        p = len(self.beta)
        self._covariance = np.zeros((p, p)) if covariance is None else covariance
        self.A, self.b, self.e = unpacked(self.beta, self.center, self.scale)
        self.n_points = self.n_equations = len(loo.observed)
        self.rank = min(p, self.n_points)
        self._loo = loo
        return self

    # ------------------------------------------------------------------ storage

    def state(self) -> dict[str, Any]:
        """Arrays and numbers of the fit."""
        loo = self.loo
        return {
            "beta": self.beta,
            "center": self.center,
            "scale": self.scale,
            "covariance": self._covariance,
            "predicted": loo.predicted,
            "observed": loo.observed,
            "numbers": np.array(
                [self.ridge, self.misfit, loo.noise, self.n_points, self.n_equations, self.rank]
            ),
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> QuadraticSurrogate:
        """The surrogate again from its state."""
        self = cls()
        self.beta, self.center, self.scale = state["beta"], state["center"], state["scale"]
        self._covariance = state["covariance"]
        ridge, misfit, noise, points, equations, rank = (float(v) for v in state["numbers"])
        self.ridge, self.misfit = ridge, misfit
        self.n_points, self.n_equations, self.rank = int(points), int(equations), int(rank)
        self.A, self.b, self.e = unpacked(self.beta, self.center, self.scale)
        self._loo = LeaveOneOut(state["predicted"], state["observed"], noise)
        return self


def _factor(rows: Array, weight: Array, ridge: float) -> tuple[Array, Array]:
    """QR of the weighted equations, extended by the ridge as equations of their own."""
    weighted = rows * np.sqrt(weight)[:, None]
    if ridge > 0:
        size = float((weighted[:, 1:] ** 2).sum(axis=0).mean())
        penalty = np.eye(rows.shape[1])[1:] * np.sqrt(ridge * size)
        weighted = np.vstack([weighted, penalty])
    Q, R = qr(weighted, mode="economic")
    return np.asarray(Q), np.asarray(R)


def _fitted(rows: Array, target: Array, weight: Array, ridge: float) -> Array:
    Q, _ = _factor(rows, weight, ridge)
    top = Q[: len(rows)]
    root = np.sqrt(weight)
    return np.asarray(top @ (top.T @ (root * target)) / root)


def _left_out(
    rows: Array, target: Array, weight: Array, group: NDArray[np.int64], ridge: float
) -> Array:
    """Every equation predicted from the other points: ``r_loo = (I - H_gg)^-1 r`` by group g."""
    top = _factor(rows, weight, ridge)[0][: len(rows)]
    if ridge == 0 and float((top**2).sum(axis=1).max()) > 1 - 1e-9:
        # A point that a direction rests on alone: without it, the fit is the one of minimum norm.
        top = _factor(rows, weight, _TINY)[0][: len(rows)]
    root = np.sqrt(weight)
    residual = root * target - top @ (top.T @ (root * target))
    predicted = np.empty(len(rows))
    for point in np.unique(group):
        own = np.flatnonzero(group == point)
        rest = np.eye(len(own)) - top[own] @ top[own].T
        rest += 1e-13 * np.eye(len(own))
        predicted[own] = target[own] - np.linalg.solve(rest, residual[own]) / root[own]
    return predicted
