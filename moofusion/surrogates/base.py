"""What a surrogate is: a cheap model of one quantity on its link scale, fitted to evaluations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError

__all__ = ["LeaveOneOut", "Surrogate", "checked_data"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LeaveOneOut:
    """How well points are predicted that the fit did not see.

    Attributes:
        predicted: Prediction of every point from all others, on the link scale, shape ``(P,)``.
        observed: What was measured there.
        noise: Root mean square of the known measurement noise; NaN where it is not known.

    Example:
        >>> found = LeaveOneOut(np.array([0.1, 0.4, 0.8]), np.array([0.0, 0.5, 1.0]), 0.05)
        >>> round(found.r2, 3), round(found.rmse, 3)
        (0.88, 0.141)
    """

    predicted: Array
    observed: Array
    noise: float

    @property
    def r2(self) -> float:
        """Share of the variance that is predicted; at most 1, negative if the mean is better."""
        total = float(((self.observed - self.observed.mean()) ** 2).sum())
        rest = float(((self.observed - self.predicted) ** 2).sum())
        return 1 - rest / total if total > 0 else float(rest == 0)

    @property
    def rmse(self) -> float:
        """Root mean square error; compare it with `noise`."""
        return float(np.sqrt(np.mean((self.observed - self.predicted) ** 2)))


class Surrogate(ABC):
    """Base class: ``fit(X, z)``, then ``predict(X)`` gives mean and standard deviation.

    Example:
        >>> from moofusion.surrogates import SURROGATES
        >>> X = np.linspace(0, 1, 8)[:, None]
        >>> mean, _ = SURROGATES["quadratic"]().fit(X, (X**2).ravel()).predict(np.array([[0.3]]))
        >>> round(float(mean[0]), 3)
        0.09
    """

    kind: ClassVar[str] = ""
    n_points: int = 0

    @abstractmethod
    def fit(
        self,
        X: Array,
        z: Array,
        *,
        noise: Array | None = None,
        gradients: Array | None = None,
        relevance: Array | None = None,
    ) -> Surrogate:
        """Fit to evaluations.

        Args:
            X: Decision vectors, shape ``(P, n_var)``.
            z: Values on the link scale, shape ``(P,)``; NaN where only the gradient is known.
            noise: Their known variance, shape ``(P,)``; None if it is not known.
            gradients: dz/dx, shape ``(P, n_var)``; NaN rows where it is not known.
            relevance: How much it matters to be right at each point, shape ``(P,)``, in (0, 1].

        Raises:
            ConfigurationError: Shapes do not fit, or a surrogate cannot use gradients.
        """

    @abstractmethod
    def predict(self, X: Array) -> tuple[Array, Array]:
        """Mean and standard deviation ``(P,)`` of each at decision vectors ``(P, n_var)``."""

    def gradient(self, X: Array) -> Array:
        """Derivative of the mean, shape ``(P, n_var)``.

        Raises:
            ConfigurationError: This kind of surrogate has none.
        """
        raise ConfigurationError(f"the {self.kind} surrogate has no gradient")

    @property
    @abstractmethod
    def loo(self) -> LeaveOneOut:
        """Exact leave-one-out predictions at the fitted hyperparameters."""

    @property
    def note(self) -> str:
        """What a reader of the table has to know about this fit; empty if nothing."""
        return ""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs: arrays, numbers and words, possibly nested."""

    @classmethod
    @abstractmethod
    def restore(cls, state: dict[str, Any]) -> Surrogate:
        """The surrogate again from its state."""


def checked_data(
    X: Array,
    z: Array,
    noise: Array | None = None,
    gradients: Array | None = None,
    relevance: Array | None = None,
) -> tuple[Array, Array, Array | None, Array | None, Array | None]:
    """The data of a fit as arrays whose shapes agree, without points that have nothing to fit.

    Raises:
        ConfigurationError: Shapes do not agree, or there is nothing finite to fit.
    """
    X, z = np.atleast_2d(np.asarray(X, float)), np.asarray(z, float)
    P, n = X.shape
    extra = {"noise": noise, "gradients": gradients, "relevance": relevance}
    arrays = {k: None if v is None else np.asarray(v, float) for k, v in extra.items()}
    for name, array in {"z": z, **arrays}.items():
        shape = (P, n) if name == "gradients" else (P,)
        if array is not None and array.shape != shape:
            raise ConfigurationError(
                f"surrogate: {name} must have shape {shape} for {P} points of {n} variables, "
                f"got {array.shape}"
            )
    if not np.isfinite(X).all():
        raise ConfigurationError("surrogate: decision vectors hold NaN or infinite values")
    usable = np.isfinite(z)
    slopes = arrays["gradients"]
    if slopes is not None:
        usable = usable | np.isfinite(slopes).all(axis=1)
    if not usable.any():
        raise ConfigurationError("surrogate: there is no finite value to fit")
    kept = {k: None if v is None else v[usable] for k, v in arrays.items()}
    return X[usable], z[usable], kept["noise"], kept["gradients"], kept["relevance"]
