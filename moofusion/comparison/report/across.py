"""Tables across problems: all hypervolumes at a glance, average ranks, Friedman."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moofusion.comparison.ranking import (
    MIN_PROBLEMS,
    ProblemRanking,
    average_ranks,
    rank_over_problems,
)
from moofusion.comparison.report.scores import Section
from moofusion.comparison.report.table import Column, Table
from moofusion.comparison.report.tables import holm_columns, holm_values
from moofusion.comparison.statistics import summarize

__all__ = ["Family", "across_tables", "families"]


class Family:
    """Problems under one budget, and the algorithms that ran on all of them.

    Args:
        budget: The budget.
        sections: The problems.
        slug: What its files are called.
    """

    def __init__(self, budget: str, sections: Sequence[Section], slug: str) -> None:
        self.budget, self.sections, self.slug = budget, tuple(sections), slug
        self.names = {a: n for s in self.sections for a, n in s.names.items() if a in s.algorithms}
        self.common = [a for a in self.names if all(a in s.algorithms for s in self.sections)]
        #: Median hypervolume over seeds, one value per problem.
        self.scores = {
            a: [float(np.median(s.hypervolumes(a))) for s in self.sections] for a in self.common
        }

    @property
    def ranking(self) -> ProblemRanking | None:
        """Ranks with tests; None below six problems or two algorithms."""
        if len(self.sections) < MIN_PROBLEMS or len(self.common) < 2:
            return None
        return rank_over_problems({self.names[a]: v for a, v in self.scores.items()})


def families(sections: Sequence[Section]) -> list[Family]:
    """Groups of at least two problems that share a budget."""
    budgets = list(dict.fromkeys(section.budget for section in sections))
    groups = {b: [s for s in sections if s.budget == b] for b in budgets}
    many = {b: group for b, group in groups.items() if len(group) > 1}
    return [
        Family(b, group, "all" if len(many) == 1 else f"all-{b.replace('=', '-')}")
        for b, group in many.items()
    ]


def across_tables(family: Family) -> list[Table]:
    """Overview of the problems and, from six problems on, the ranking with its tests."""
    tables = [_overview(family)]
    ranking = family.ranking
    if ranking is not None:
        tables += [_ranks(family, ranking), _pairs(family, ranking)]
    return tables


def _overview(family: Family) -> Table:
    columns = [Column("problem", "problem", "text")]
    columns += [Column(f"hv:{a}", name, "spread", better="max") for a, name in family.names.items()]
    rows = []
    for section in family.sections:
        row: list[object] = [section.title]
        for algorithm in family.names:
            value = None
            if algorithm in section.algorithms:
                found = summarize(section.hypervolumes(algorithm))
                value = (found.mean, found.std)
            row.append(value)
        rows.append(tuple(row))
    notes = [
        "Normalized hypervolume on the test split where there is one, mean ± standard deviation "
        "over seeds; its scale differs from problem to problem.",
    ]
    if len(family.common) > 1:
        ranks = average_ranks({family.names[a]: v for a, v in family.scores.items()})
        listed = ", ".join(f"{name} {rank:.2f}" for name, rank in ranks.items())
        notes.append(f"Average rank (1 is best) of the medians: {listed}.")
        if family.ranking is None:
            notes.append(
                f"Fewer than {MIN_PROBLEMS} problems: no test across problems; see the tests "
                "within each."
            )
    title = f"All problems, {family.budget}"
    return Table(
        f"{family.slug}-problems", title, tuple(columns), tuple(rows), tuple(notes), "rows"
    )


def _ranks(family: Family, ranking: ProblemRanking) -> Table:
    columns = (Column("algorithm", "algorithm", "text"), Column("rank", "average rank", digits=2))
    rows = tuple(ranking.ranks.items())
    cliques = "; ".join(", ".join(clique) for clique in ranking.cliques) or "none"
    notes = (
        f"Median hypervolume over seeds: {ranking.caption}.",
        f"Not told apart: {cliques}.",
    )
    title = f"Average ranks, {family.budget}"
    return Table(f"{family.slug}-ranks", title, columns, rows, notes)


def _pairs(family: Family, ranking: ProblemRanking) -> Table:
    tests = ranking.tests
    columns = (
        Column("first", "first", "text"),
        Column("second", "second", "text"),
        Column("median_difference", "median difference"),
        Column("share_won", tests.effect, digits=2),
        *holm_columns(tests),
    )
    rows = tuple(
        (pair.first, pair.second, pair.difference, pair.effect, *holm_values(tests, pair))
        for pair in tests.pairs
    )
    notes = (
        f"Wilcoxon signed-rank test over {ranking.n_problems} problems, {tests.caption}.",
        *(f"{note[0].upper()}{note[1:]}." for note in tests.notes),
    )
    title = f"Algorithms against each other over all problems, {family.budget}"
    return Table(f"{family.slug}-pairwise", title, columns, rows, notes)
