"""How searches are run, measured and judged."""

from moofusion.comparison.decision import choose
from moofusion.comparison.front import Front, PointSet
from moofusion.comparison.log import EvaluationLog
from moofusion.comparison.plots import plot_front
from moofusion.comparison.quality import REFERENCE, hypervolume, nondominated
from moofusion.comparison.result import SearchResult
from moofusion.comparison.search import search

__all__ = [
    "REFERENCE",
    "EvaluationLog",
    "Front",
    "PointSet",
    "SearchResult",
    "choose",
    "hypervolume",
    "nondominated",
    "plot_front",
    "search",
]
