"""Algorithms compared over many problems: average ranks, Friedman, cliques of equals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from moofusion.comparison.objectives import checked_values
from moofusion.comparison.pairwise import PairwiseTests, pairwise_tests
from moofusion.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MIN_PROBLEMS", "ProblemRanking", "average_ranks", "rank_over_problems"]

Array = NDArray[np.float64]

#: Fewest problems over which algorithms are tested.
MIN_PROBLEMS = 6

_DIGITS = 12


def average_ranks(
    scores: Mapping[str, ArrayLike], *, larger_is_better: bool = True
) -> dict[str, float]:
    """Mean rank of each algorithm over the problems; 1 is the best, ties share their ranks.

    Args:
        scores: For each algorithm one value per problem, shape ``(N,)``, in a common order: for
            example the median over seeds.
        larger_is_better: True for hypervolume, False for IGD+ and epsilon.

    Returns:
        Ranks, best first.

    Raises:
        ConfigurationError: Different numbers of problems, NaN or infinite values.

    Example:
        >>> average_ranks({"a": [0.5, 0.1], "b": [0.9, 0.1]})
        {'b': 1.25, 'a': 1.75}
    """
    table = _table(scores)
    ranks = stats.rankdata(-table if larger_is_better else table, axis=1).mean(axis=0)
    order = np.argsort(ranks, kind="stable")
    names = list(scores)
    return {names[i]: float(ranks[i]) for i in order}


@dataclass(frozen=True)
class ProblemRanking:
    """What a critical-difference diagram shows.

    Attributes:
        ranks: Average rank of each algorithm, best first.
        n_problems: Number of problems N.
        friedman: Friedman's chi-square and its p-value; None for two algorithms.
        tests: Wilcoxon signed-rank tests of all pairs over the problems.
        cliques: Algorithms to be joined by a bar: neighbours in rank no two of which differ,
            largest groups only, best first.
    """

    ranks: dict[str, float]
    n_problems: int
    friedman: tuple[float, float] | None
    tests: PairwiseTests
    cliques: tuple[tuple[str, ...], ...]

    @property
    def caption(self) -> str:
        """What stands with the diagram."""
        text = f"average ranks over {self.n_problems} problems, 1 is best"
        if self.friedman is not None:
            text += f"; Friedman chi-square {self.friedman[0]:.3g}, p = {self.friedman[1]:.3g}"
        return (
            f"{text}; bars join algorithms that do not differ (Wilcoxon signed-rank, "
            f"{self.tests.caption}, level {self.tests.alpha:g})"
        )

    def to_frame(self) -> pd.DataFrame:
        """Average ranks, one row per algorithm; ``attrs`` holds the caption."""
        import pandas as pd

        frame = pd.DataFrame({"algorithm": list(self.ranks), "rank": list(self.ranks.values())})
        frame.attrs = {"caption": self.caption, "notes": list(self.tests.notes)}
        return frame

    def __str__(self) -> str:
        ranks = ", ".join(f"{name} {rank:.2f}" for name, rank in self.ranks.items())
        bars = "; ".join(", ".join(clique) for clique in self.cliques) or "none"
        return f"{self.caption}\nRanks: {ranks}\nNot told apart: {bars}"


def rank_over_problems(
    scores: Mapping[str, ArrayLike], *, larger_is_better: bool = True, alpha: float = 0.05
) -> ProblemRanking:
    """Rank algorithms over problems and say which differ.

    Friedman's test asks whether any differ; where it says no, all form one clique. Then Wilcoxon's
    signed-rank test decides for each pair, with Holm's correction. It depends on the two
    algorithms alone, where Nemenyi's depends on which others are in the table. It compares
    differences between problems, so the scores must be on one scale: normalized hypervolume is.

    Args:
        scores: For each algorithm one value per problem, shape ``(N,)``, in a common order: for
            example the median over seeds of the normalized hypervolume.
        larger_is_better: True for hypervolume, False for IGD+ and epsilon.
        alpha: Level of both tests.

    Raises:
        ConfigurationError: Fewer than six problems or two algorithms, different numbers of
            problems, NaN or infinite values.

    Source: Demsar 2006, Statistical comparisons of classifiers over multiple data sets (Friedman,
    diagram); Benavoli, Corani, Mangili 2016, Should we really use post-hoc tests based on
    mean-ranks? (Wilcoxon instead of Nemenyi); computed by scipy.

    Example:
        >>> a = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 0.7, 0.8]
        >>> b = [0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
        >>> c = [0.41, 0.38, 0.43, 0.36, 0.45, 0.34, 0.47, 0.32]
        >>> found = rank_over_problems({"a": a, "b": b, "c": c})
        >>> found.ranks, found.cliques
        ({'a': 1.0, 'b': 2.5, 'c': 2.5}, (('b', 'c'),))
    """
    table = _table(scores)
    n, k = table.shape
    if n < MIN_PROBLEMS:
        raise ConfigurationError(
            f"algorithms are tested over at least {MIN_PROBLEMS} problems, got {n}; report average "
            "ranks without a test, and the tests within each problem"
        )
    tests = pairwise_tests(scores, larger_is_better=larger_is_better, alpha=alpha, unit="problem")
    friedman = _friedman(table) if k > 2 else None
    ranks = average_ranks(scores, larger_is_better=larger_is_better)
    names = list(ranks)
    cliques = _cliques(names, tests)
    if friedman is not None and friedman[1] > alpha:
        cliques = (tuple(names),)
    return ProblemRanking(ranks, n, friedman, tests, cliques)


def _friedman(table: Array) -> tuple[float, float]:
    if (table == table[:, :1]).all():
        return 0.0, 1.0
    found = stats.friedmanchisquare(*table.T)
    return float(found.statistic), float(found.pvalue)


def _cliques(names: list[str], tests: PairwiseTests) -> tuple[tuple[str, ...], ...]:
    """Largest runs of neighbours in rank without a differing pair, two or more algorithms."""
    cliques: list[tuple[str, ...]] = []
    reached = 0
    for start in range(len(names)):
        end = start + 1
        while end < len(names) and not any(
            tests.differ(names[i], names[end]) for i in range(start, end)
        ):
            end += 1
        if end - start > 1 and end > reached:
            cliques.append(tuple(names[start:end]))
        reached = max(reached, end)
    return tuple(cliques)


def _table(scores: Mapping[str, ArrayLike]) -> Array:
    """Problems x algorithms; values that differ by rounding only are made equal."""
    columns = [checked_values(v, what=f"scores of {name!r}") for name, v in scores.items()]
    if len(columns) < 2 or len({len(column) for column in columns}) > 1:
        raise ConfigurationError(
            "a ranking needs at least two algorithms with one value per problem each, got "
            f"{', '.join(f'{name}: {len(c)}' for name, c in zip(scores, columns, strict=True))}"
        )
    table = np.column_stack(columns)
    scale = np.abs(table).max(axis=1, keepdims=True)
    return np.asarray(np.round(table / np.where(scale > 0, scale, 1), _DIGITS))
