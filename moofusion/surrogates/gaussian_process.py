"""The Gaussian-process surrogate, for metrics that no quadratic follows (scikit-learn)."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError
from moofusion.surrogates.base import LeaveOneOut, Surrogate, checked_data

__all__ = ["GaussianProcessSurrogate"]

Array = NDArray[np.float64]


class GaussianProcessSurrogate(Surrogate):
    """Gaussian process with a Matern 5/2 kernel, one length scale for each variable.

    The known noise enters point by point, an unknown rest as a white kernel; relevance is not
    needed, since far points have no say here; hyperparameters
    maximize the marginal likelihood from fixed starts, so that equal data give equal models.

    Raises:
        ConfigurationError: scikit-learn is not installed, or gradients were given.

    Source: Rasmussen and Williams 2006, chapters 2 and 5 (leave-one-out: eq. 5.12).

    Example:
        >>> X = np.linspace(0, 1, 8)[:, None]
        >>> model = GaussianProcessSurrogate().fit(X, np.sin(6 * X[:, 0]))
        >>> bool(abs(model.predict([[0.4]])[0][0] - np.sin(2.4)) < 0.02)
        True
    """

    kind: ClassVar[str] = "gp"

    def __init__(self) -> None:
        if importlib.util.find_spec("sklearn") is None:
            raise ConfigurationError(
                "the Gaussian-process surrogate needs scikit-learn, which is not installed: "
                "pip install 'moofusion[gp]'"
            )
        self._loo: LeaveOneOut | None = None

    def fit(
        self,
        X: Array,
        z: Array,
        *,
        noise: Array | None = None,
        gradients: Array | None = None,
        relevance: Array | None = None,
    ) -> GaussianProcessSurrogate:
        """Fit to values (see :meth:`Surrogate.fit`)."""
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        if gradients is not None:
            raise ConfigurationError(
                "the Gaussian-process surrogate takes values, not gradients; use 'quadratic'"
            )
        X, z, noise, _, _ = checked_data(X, z, noise)
        low, high = X.min(axis=0), X.max(axis=0)
        self._low, self._width = low, np.where(high > low, high - low, 1.0)
        spread = float(z.std())
        self._mean, self._unit = float(z.mean()), spread if spread > 0 else 1.0
        self._X, self._z = X, z
        self._noise = np.full(len(X), 1e-10) if noise is None else noise / self._unit**2 + 1e-10
        kernel = ConstantKernel(1.0, (1e-2, 1e3)) * Matern(
            np.ones(X.shape[1]), (0.05, 20.0), nu=2.5
        ) + WhiteKernel(1e-3, (1e-8, 1.0))
        self._regress(kernel, optimize=len(X) > 2)
        self.n_points = len(X)
        K = self._model.kernel_(self._units(X)) + np.diag(self._noise)
        inverse = np.linalg.inv(K)
        target = (z - self._mean) / self._unit
        left_out = z - self._unit * (inverse @ target) / np.diag(inverse)
        level = float("nan") if noise is None else float(np.sqrt(noise.mean()))
        self._loo = LeaveOneOut(left_out, z, level)
        return self

    def _regress(self, kernel: Any, *, optimize: bool) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor

        options: dict[str, Any] = {"n_restarts_optimizer": 2} if optimize else {"optimizer": None}
        model = GaussianProcessRegressor(kernel, alpha=self._noise, random_state=0, **options)
        with warnings.catch_warnings():
            # A length scale at its bound is an answer: this variable does not matter here.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model = model.fit(self._units(self._X), (self._z - self._mean) / self._unit)

    def _units(self, X: Any) -> Array:
        return np.asarray((np.atleast_2d(np.asarray(X, float)) - self._low) / self._width)

    def predict(self, X: Array) -> tuple[Array, Array]:
        """Mean and standard deviation ``(P,)`` of each, of the quantity without its noise."""
        mean, std = self._model.predict(self._units(X), return_std=True)
        white = float(self._model.kernel_.k2.noise_level)
        std = np.sqrt(np.maximum(std**2 - white, 0))
        return self._mean + self._unit * mean, self._unit * std

    @property
    def loo(self) -> LeaveOneOut:
        """Exact leave-one-out predictions at the fitted hyperparameters."""
        if self._loo is None:
            raise ConfigurationError("the surrogate has not been fitted")
        return self._loo

    def state(self) -> dict[str, Any]:
        """Data and hyperparameters."""
        loo = self.loo
        return {
            "X": self._X,
            "z": self._z,
            "noise": self._noise,
            "theta": self._model.kernel_.theta,
            "predicted": loo.predicted,
            "level": np.array(loo.noise),
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> GaussianProcessSurrogate:
        """The surrogate again from its state."""
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        self = cls()
        self._X, self._z, self._noise = state["X"], state["z"], state["noise"]
        low, high = self._X.min(axis=0), self._X.max(axis=0)
        self._low, self._width = low, np.where(high > low, high - low, 1.0)
        spread = float(self._z.std())
        self._mean, self._unit = float(self._z.mean()), spread if spread > 0 else 1.0
        kernel = ConstantKernel() * Matern(np.ones(self._X.shape[1]), nu=2.5) + WhiteKernel()
        self._regress(kernel.clone_with_theta(state["theta"]), optimize=False)
        self.n_points = len(self._X)
        self._loo = LeaveOneOut(state["predicted"], self._z, float(state["level"]))
        return self
