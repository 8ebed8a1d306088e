"""Statistics over seeds: summaries with intervals, effect size, correction of a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from moofusion.comparison.objectives import checked_values
from moofusion.errors import ConfigurationError

__all__ = ["SampleSummary", "a12", "holm", "summarize"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SampleSummary:
    """One number per run, summed up.

    Attributes:
        n: Number of runs.
        mean: Mean.
        std: Standard deviation of the population (divisor n - 1); NaN for one run.
        median: Median.
        q1: First quartile.
        q3: Third quartile.
        iqm: Interquartile mean: the mean without the int(n / 4) smallest and largest values.
        iqm_low: Lower end of its bootstrap interval; NaN for one run.
        iqm_high: Upper end.
        confidence: Level of the interval.
    """

    n: int
    mean: float
    std: float
    median: float
    q1: float
    q3: float
    iqm: float
    iqm_low: float
    iqm_high: float
    confidence: float

    @property
    def iqr(self) -> float:
        """Interquartile range, ``q3 - q1``."""
        return self.q3 - self.q1


def summarize(
    values: ArrayLike, *, seed: int = 0, confidence: float = 0.95, resamples: int = 2000
) -> SampleSummary:
    """Mean and deviation, median and quartiles, interquartile mean with a bootstrap interval.

    Args:
        values: One number per run, shape ``(S,)``.
        seed: Seed of the resampling: the same values, in any order, give the same interval.
        confidence: Level of the interval, in (0, 1).
        resamples: Number of bootstrap samples.

    Raises:
        ConfigurationError: No value, NaN or infinite values, or a level outside (0, 1).

    Source: Agarwal et al. 2021, Deep reinforcement learning at the edge of the statistical
    precipice, Section 4.3 (percentile bootstrap of the 25 % trimmed mean); computed by scipy.

    Example:
        >>> s = summarize([1.0, 2.0, 3.0, 4.0, 100.0])
        >>> s.mean, s.median, s.iqm
        (22.0, 3.0, 3.0)
    """
    x = np.sort(checked_values(values))
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence must lie between 0 and 1, got {confidence!r}")
    low = high = std = float("nan")
    if len(x) > 1:
        std = float(x.std(ddof=1))
        interval = stats.bootstrap(
            (x,),
            _interquartile_mean,
            n_resamples=resamples,
            confidence_level=confidence,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    q1, median, q3 = (float(q) for q in np.quantile(x, [0.25, 0.5, 0.75]))
    iqm = float(_interquartile_mean(x))
    return SampleSummary(len(x), float(x.mean()), std, median, q1, q3, iqm, low, high, confidence)


def a12(first: ArrayLike, second: ArrayLike, *, larger_is_better: bool = True) -> float:
    """Probability that a run of the first algorithm beats a run of the second; ties count half.

    Args:
        first: One number per run, shape ``(S,)``.
        second: The same of the other algorithm, shape ``(T,)``.
        larger_is_better: True for hypervolume, False for IGD+ and epsilon.

    Returns:
        Between 0 and 1; 0.5: no difference; from 0.56 (or 0.44) on a small, from 0.64 (0.36) a
        medium, from 0.71 (0.29) a large effect. Pairing is not used.

    Raises:
        ConfigurationError: No value, NaN or infinite values.

    Source: Vargha and Delaney 2000, A critique and improvement of the CL common language effect
    size statistics, eq. 14: the Mann-Whitney U over S T.

    Example:
        >>> a12([3, 4], [1, 3])
        0.875
    """
    x, y = checked_values(first), checked_values(second)
    larger = (x[:, None] > y).mean() + 0.5 * (x[:, None] == y).mean()
    return float(larger if larger_is_better else 1 - larger)


def holm(p: ArrayLike) -> Array:
    """Holm's step-down correction: p-values that bound the chance of any false rejection.

    Args:
        p: The p-values of one family, shape ``(C,)``.

    Returns:
        Adjusted p-values, same order, at most 1.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0)


def _interquartile_mean(x: Array, axis: int = -1) -> Any:
    return stats.trim_mean(x, 0.25, axis=axis)
