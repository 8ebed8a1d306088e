"""Links: scales on which a metric is closer to a quadratic than as it is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.tasks.base import Metric

__all__ = ["Identity", "Link", "Log", "Logit", "Softplus", "link_for", "link_from"]

Array = NDArray[np.float64]

# Metrics that are positive and have no upper bound.
_POSITIVE = ("loss", "perplexity")
# Stands for the number of samples where a bounded metric does not say.
_SAMPLES = 1000


class Link(ABC):
    """A monotone scale: ``z = forward(y)``, ``y = inverse(z)``; all functions are elementwise.

    Example:
        >>> logit = link_from({"name": "logit"})
        >>> y = np.array([0.2, 0.9])
        >>> bool(np.allclose(logit.inverse(logit.forward(y)), y, atol=1e-3))
        True
    """

    name = ""

    @abstractmethod
    def forward(self, y: Array) -> Array:
        """Metric to link scale."""

    @abstractmethod
    def inverse(self, z: Array) -> Array:
        """Link scale to metric."""

    @abstractmethod
    def slope(self, y: Array) -> Array:
        """dz/dy at the metric y: carries gradients and standard deviations to the link scale."""

    @abstractmethod
    def inverse_slope(self, z: Array) -> Array:
        """dy/dz at z: carries them back (delta method)."""

    def noise(self, y: Array) -> Array | None:
        """Variance of z by which measured metrics differ from their expectation, where known."""
        return None

    def settings(self) -> dict[str, Any]:
        """Name and parameters, from which :func:`link_from` builds the link again."""
        return {"name": self.name}


class Identity(Link):
    """The metric itself.

    Example:
        >>> float(Identity().forward(np.array(0.3)))
        0.3
    """

    name = "identity"

    def forward(self, y: Array) -> Array:
        """The metric as it is."""
        return np.asarray(y, float)

    def inverse(self, z: Array) -> Array:
        """The same."""
        return np.asarray(z, float)

    def slope(self, y: Array) -> Array:
        """One everywhere."""
        return np.ones_like(y, dtype=float)

    def inverse_slope(self, z: Array) -> Array:
        """One everywhere."""
        return np.ones_like(z, dtype=float)


class Log(Link):
    """Logarithm, for positive metrics such as a loss; values below 1e-12 count as 1e-12.

    Example:
        >>> float(Log().inverse(Log().forward(np.array(0.25))))
        0.25
    """

    name = "log"

    def forward(self, y: Array) -> Array:
        """Natural logarithm."""
        return np.asarray(np.log(np.maximum(y, 1e-12)))

    def inverse(self, z: Array) -> Array:
        """Exponential."""
        return np.asarray(np.exp(np.minimum(z, 300.0)))

    def slope(self, y: Array) -> Array:
        """1 / y."""
        return np.asarray(1 / np.maximum(y, 1e-12))

    def inverse_slope(self, z: Array) -> Array:
        """exp(z)."""
        return self.inverse(z)


class Softplus(Link):
    """``y = log(1 + exp(z))``, the link of the MAP paper for positive metrics.

    Example:
        >>> round(float(Softplus().inverse(Softplus().forward(np.array(0.25)))), 12)
        0.25
    """

    name = "softplus"

    def forward(self, y: Array) -> Array:
        """Inverse of the softplus; values below 1e-12 count as 1e-12."""
        y = np.maximum(y, 1e-12)
        return np.asarray(y + np.log(-np.expm1(-y)))

    def inverse(self, z: Array) -> Array:
        """Softplus."""
        return np.asarray(np.logaddexp(0, z))

    def slope(self, y: Array) -> Array:
        """1 / (1 - exp(-y))."""
        return np.asarray(-1 / np.expm1(-np.maximum(y, 1e-12)))

    def inverse_slope(self, z: Array) -> Array:
        """Sigmoid."""
        return np.asarray(expit(z))


@dataclass(frozen=True)
class Logit(Link):
    """Log-odds of a metric bounded in ``[lower, upper]`` that is a mean over `samples` samples.

    The share ``p = (y - lower) / (upper - lower)`` is moved to ``q = (n p + 1/2) / (n + 1)``, so
    that the bounds themselves have finite log-odds (Haldane 1956, Anscombe 1956). The sampling
    variance of z is ``1 / (n q (1 - q))``, the binomial one by the delta method.

    Attributes:
        lower: Smallest value of the metric.
        upper: Largest value.
        samples: Number of samples n behind a value.

    Example:
        >>> link = Logit(0.0, 1.0, samples=50)
        >>> link.inverse(link.forward(np.array([0.0, 0.3, 1.0]))).round(12)
        array([0. , 0.3, 1. ])
    """

    lower: float = 0.0
    upper: float = 1.0
    samples: int = _SAMPLES
    name = "logit"

    def __post_init__(self) -> None:
        if not self.lower < self.upper or self.samples < 1:
            raise ConfigurationError(
                f"logit link: expected lower < upper and at least one sample, got {self!r}"
            )

    def _share(self, y: Array) -> Array:
        p = np.clip((np.asarray(y, float) - self.lower) / (self.upper - self.lower), 0, 1)
        return np.asarray((self.samples * p + 0.5) / (self.samples + 1))

    def forward(self, y: Array) -> Array:
        """Log-odds of the moved share."""
        q = self._share(y)
        return np.asarray(np.log(q) - np.log1p(-q))

    def inverse(self, z: Array) -> Array:
        """The metric, within its bounds."""
        p = ((self.samples + 1) * expit(z) - 0.5) / self.samples
        return np.asarray(self.lower + (self.upper - self.lower) * np.clip(p, 0, 1))

    def slope(self, y: Array) -> Array:
        """dq/dy / (q (1 - q))."""
        q = self._share(y)
        rate = self.samples / (self.samples + 1) / (self.upper - self.lower)
        return np.asarray(rate / (q * (1 - q)))

    def inverse_slope(self, z: Array) -> Array:
        """(upper - lower) q (1 - q), corrected for the move."""
        q = expit(np.asarray(z, float))
        return np.asarray(
            (self.upper - self.lower) * (self.samples + 1) / self.samples * q * (1 - q)
        )

    def noise(self, y: Array) -> Array:
        """Binomial variance on the scale of z."""
        q = self._share(y)
        return np.asarray(1 / (self.samples * q * (1 - q)))

    def settings(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": self.name, **asdict(self)}


def link_for(metric: Metric, *, samples: int | None = None) -> Link:
    """The link that suits a metric.

    Logit where both ends are known (``"max"`` with `best` and a `worst` objective: accuracy, F1),
    log for losses and perplexities, else the identity.

    Args:
        metric: The measured quantity.
        samples: Number of samples behind a value.

    Example:
        >>> link_for(Metric("accuracy", "max", best=1.0, worst=1.0), samples=200)
        Logit(lower=0.0, upper=1.0, samples=200)
    """
    if metric.direction == "max" and metric.worst is not None and metric.worst > 0:
        return Logit(metric.best - metric.worst, metric.best, samples or _SAMPLES)
    if metric.direction == "min" and metric.name in _POSITIVE:
        return Log()
    return Identity()


def link_from(settings: dict[str, Any]) -> Link:
    """A link from its settings.

    Raises:
        UnknownNameError: There is no link of that name.
    """
    kinds: dict[str, type[Link]] = {
        "identity": Identity,
        "log": Log,
        "logit": Logit,
        "softplus": Softplus,
    }
    options = dict(settings)
    name = options.pop("name")
    if name not in kinds:
        raise UnknownNameError("link", name, kinds)
    return kinds[name](**options)
