"""Tests between pairs of algorithms: paired where possible, corrected for the family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, count
from math import comb
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from moofusion.comparison.objectives import checked_values
from moofusion.comparison.statistics import a12, holm
from moofusion.errors import ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MANN_WHITNEY", "WILCOXON", "PairTest", "PairwiseTests", "pairwise_tests"]

Array = NDArray[np.float64]
Unit = Literal["run", "problem"]

#: Names of the two tests.
WILCOXON = "Wilcoxon signed-rank"
MANN_WHITNEY = "Mann-Whitney U"

# Values that agree to this share of the family's largest are equal: they differ by rounding only.
_ROUNDING = 1e-12
# Two samples with ties are compared by counting all ways to split them, up to this many.
_MAX_SPLITS = 20_000
# Without ties the distribution of U is known exactly; beyond this size it is normal.
_MAX_EXACT = 50
_FEW = 5


@dataclass(frozen=True)
class PairTest:
    """Two algorithms compared.

    Attributes:
        first: Name of one algorithm.
        second: Name of the other.
        test: :data:`WILCOXON` (paired) or :data:`MANN_WHITNEY`.
        n: Number of values of each.
        difference: Median of the first minus median of the second.
        effect: Probability that the first is the better one (see :class:`PairwiseTests`).
        p: Two-sided p-value before correction.
        p_adjusted: After correction for the family.
        smallest_p: Smallest p-value before correction that samples of this size can give.
        interpreted: False where the medians differ by less than the values are accurate.
    """

    first: str
    second: str
    test: str
    n: tuple[int, int]
    difference: float
    effect: float
    p: float
    p_adjusted: float
    smallest_p: float
    interpreted: bool = True


@dataclass(frozen=True)
class PairwiseTests:
    """The comparisons of one family, with the correction that was applied.

    Attributes:
        pairs: The comparisons.
        alpha: Level of the family.
        effect: What the effect size is: ``"A12"``, or ``"share of problems won"``.
        correction: Name of the correction.
        notes: What limits the conclusions, as sentences.
    """

    pairs: tuple[PairTest, ...]
    alpha: float
    effect: str = "A12"
    correction: str = "Holm"
    notes: tuple[str, ...] = ()

    @property
    def family_size(self) -> int:
        """Number of comparisons that were corrected together."""
        return len(self.pairs)

    @property
    def caption(self) -> str:
        """What stands with every table of these p-values."""
        noun = "comparison" if self.family_size == 1 else "comparisons"
        return f"family of {self.family_size} {noun}, {self.correction} correction"

    def pair(self, first: str, second: str) -> PairTest:
        """The comparison of two algorithms, whichever is named first.

        Raises:
            ConfigurationError: They were not compared.
        """
        for pair in self.pairs:
            if {pair.first, pair.second} == {first, second}:
                return pair
        raise ConfigurationError(f"{first!r} and {second!r} were not compared with each other")

    def differ(self, first: str, second: str) -> bool:
        """Whether two algorithms differ at the family's level, after correction."""
        pair = self.pair(first, second)
        return pair.interpreted and pair.p_adjusted <= self.alpha

    def to_frame(self) -> pd.DataFrame:
        """One row per comparison; ``attrs`` holds the caption and the notes."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "first": [pair.first for pair in self.pairs],
                "second": [pair.second for pair in self.pairs],
                "test": [pair.test for pair in self.pairs],
                "n": ["/".join(map(str, dict.fromkeys(pair.n))) for pair in self.pairs],
                "median difference": [pair.difference for pair in self.pairs],
                self.effect: [pair.effect for pair in self.pairs],
                "p": [pair.p for pair in self.pairs],
                f"p ({self.caption})": [pair.p_adjusted for pair in self.pairs],
            }
        )
        frame.attrs = {"caption": self.caption, "notes": list(self.notes)}
        return frame

    def __str__(self) -> str:
        lines = [f"{self.caption}, level {self.alpha:g}"]
        for pair in self.pairs:
            verdict = "no difference shown"
            if self.differ(pair.first, pair.second):
                verdict = f"significant ({self.caption})"
            lines.append(
                f"{pair.first} - {pair.second}: {pair.difference:+.4g} in the median, "
                f"{self.effect} {pair.effect:.2f}, p = {pair.p_adjusted:.3g} "
                f"({pair.p:.3g} uncorrected, {pair.test}): {verdict}"
            )
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])


def pairwise_tests(
    samples: Mapping[str, ArrayLike],
    *,
    seeds: Mapping[str, Sequence[int]] | None = None,
    larger_is_better: bool = True,
    alpha: float = 0.05,
    resolution: float = 0.0,
    unit: Unit = "run",
    control: str | None = None,
) -> PairwiseTests:
    """Test pairs of algorithms on one problem, with Holm's correction over all of them.

    Two algorithms that ran with the same seeds are compared pair by pair with Wilcoxon's
    signed-rank test, others with the Mann-Whitney U test, both two-sided. Small samples are
    tested exactly, also with ties. Values that agree to 1e-12 of the largest count as equal;
    samples that are equal throughout have p = 1.

    Args:
        samples: For each algorithm one number per run, shape ``(S,)``: for example the final
            hypervolume. At least two algorithms.
        seeds: For each algorithm the seeds of its runs, in the same order. Without them no pair
            is taken as paired.
        larger_is_better: True for hypervolume, False for IGD+ and epsilon. Decides the effect
            size only.
        alpha: Level of the family.
        resolution: Relative accuracy of the values: 1e-3 for approximated hypervolumes. Medians
            that are closer are not called different.
        unit: ``"problem"``: the numbers are one per problem in a common order; all pairs are
            paired and the effect size is the share of problems won.
        control: Compare each of the others with this algorithm alone: n - 1 comparisons in place
            of n (n - 1) / 2, for which fewer runs are enough.

    Returns:
        The comparisons in the order of `samples`, with notes where they cannot show anything.

    Raises:
        ConfigurationError: Fewer than two algorithms, an empty sample, NaN or infinite values,
            seeds that do not fit or occur twice.
        UnknownNameError: The control is none of the algorithms.

    Source: Wilcoxon 1945; Mann and Whitney 1947; Holm 1979; Vargha and Delaney 2000; computed by
    scipy.

    Example:
        >>> runs = {"a": [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], "b": [0.1, 0.3, 0.2, 0.5, 0.4, 0.6]}
        >>> found = pairwise_tests(runs, seeds={"a": range(6), "b": range(6)})
        >>> found.pairs[0].p, found.differ("a", "b"), found.caption
        (0.03125, True, 'family of 1 comparison, Holm correction')
    """
    if len(samples) < 2:
        raise ConfigurationError(f"at least two algorithms are compared, got {len(samples)}")
    if control is not None and control not in samples:
        raise UnknownNameError("control among the algorithms", control, samples)
    if not 0 < alpha < 1 or resolution < 0:
        raise ConfigurationError(
            f"the level must lie in (0, 1) and the resolution be >= 0, got {alpha!r}, "
            f"{resolution!r}"
        )
    values = {name: checked_values(v, what=f"values of {name!r}") for name, v in samples.items()}
    if unit == "problem":
        if len({len(v) for v in values.values()}) > 1:
            raise ConfigurationError("every algorithm needs one value per problem")
        seeds = {name: range(len(v)) for name, v in values.items()}
    medians = {name: float(np.median(v)) for name, v in values.items()}
    # Whole numbers, so that equal values and equal differences tie exactly.
    step = _ROUNDING * max(float(np.abs(v).max()) for v in values.values()) or 1.0
    runs = {name: _by_seed(name, np.round(v / step), seeds) for name, v in values.items()}
    pairs = []
    compared = combinations(values, 2)
    for first, second in compared if control is None else _with_control(values, control):
        (seeds_first, x), (seeds_second, y) = runs[first], runs[second]
        paired = seeds_first is not None and seeds_first == seeds_second
        test, p = _signed_rank(x, y) if paired else _rank_sum(x, y)
        won = a12(x, y) if unit == "run" else float(np.sign(x - y).mean() + 1) / 2
        difference = medians[first] - medians[second]
        accuracy = resolution * max(abs(medians[first]), abs(medians[second]))
        pairs.append(
            PairTest(
                first,
                second,
                test,
                (len(x), len(y)),
                difference,
                won if larger_is_better else 1 - won,
                p,
                p,
                _smallest_p(test, len(x), len(y)),
                abs(difference) >= accuracy,
            )
        )
    adjusted = holm([pair.p for pair in pairs])
    pairs = [replace(pair, p_adjusted=float(q)) for pair, q in zip(pairs, adjusted, strict=True)]
    notes = _notes(pairs, alpha, unit)
    if not all(pair.interpreted for pair in pairs):
        notes.append(f"medians that differ by less than {resolution:g} of them are not told apart")
    effect = "A12" if unit == "run" else "share of problems won"
    return PairwiseTests(tuple(pairs), alpha, effect, notes=tuple(notes))


def _with_control(names: Iterable[str], control: str) -> list[tuple[str, str]]:
    return [(name, control) for name in names if name != control]


def _by_seed(
    name: str, values: Array, seeds: Mapping[str, Sequence[int]] | None
) -> tuple[tuple[int, ...] | None, Array]:
    """Seeds and values in the order of the seeds; None where seeds are not known."""
    if seeds is None:
        return None, values
    own = tuple(int(seed) for seed in seeds.get(name, ()))
    if len(own) != len(values) or len(set(own)) != len(own):
        raise ConfigurationError(
            f"{name!r} has {len(values)} values and needs as many different seeds, got {own}"
        )
    order = np.argsort(own)
    return tuple(sorted(own)), values[order]


def _signed_rank(x: Array, y: Array) -> tuple[str, float]:
    if (x == y).all():
        return WILCOXON, 1.0
    # scipy's "auto": the exact distribution, all sign changes where there are ties (up to 13
    # pairs), else normal with correction for ties.
    return WILCOXON, min(float(stats.wilcoxon(x, y, method="auto").pvalue), 1.0)


def _rank_sum(x: Array, y: Array) -> tuple[str, float]:
    n, m = len(x), len(y)
    distinct = len(np.unique(np.concatenate([x, y])))
    if distinct == 1:
        return MANN_WHITNEY, 1.0
    method: object = "exact" if max(n, m) <= _MAX_EXACT else "asymptotic"
    if distinct < n + m:
        # With ties the tables do not hold: count all ways to split the values, while few.
        few = comb(n + m, n) <= _MAX_SPLITS
        method = stats.PermutationMethod(n_resamples=_MAX_SPLITS) if few else "asymptotic"
    return MANN_WHITNEY, min(float(stats.mannwhitneyu(x, y, method=method).pvalue), 1.0)


def _smallest_p(test: str, n: int, m: int) -> float:
    """Two-sided p-value of samples that do not overlap at all."""
    ways = 2.0**n if test == WILCOXON else float(comb(n + m, n))
    return min(1.0, 2 / ways)


def _notes(pairs: Sequence[PairTest], alpha: float, unit: Unit) -> list[str]:
    """What samples of these sizes cannot show, one sentence for each test and size."""
    notes = []
    for test, n, smallest in dict.fromkeys((pair.test, pair.n, pair.smallest_p) for pair in pairs):
        least = min(1.0, smallest * len(pairs))
        if least <= alpha and min(n) >= _FEW:
            continue
        sizes = " and ".join(map(str, dict.fromkeys(n)))
        text = (
            f"with {sizes} {unit}s the smallest p that {test} can give is {smallest:.3g}, or "
            f"{least:.3g} after correction over {len(pairs)}"
        )
        if least > alpha:
            enough = next(k for k in count(1) if _smallest_p(test, k, k) * len(pairs) <= alpha)
            text += (
                f": no difference can be shown at level {alpha:g} with fewer than {enough} {unit}s"
            )
        notes.append(text)
    return notes
