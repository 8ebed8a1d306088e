"""MAP: amortized Pareto fronts from surrogates of the metrics, in five variants."""

from moofusion.algorithms.map.algorithm import MAP

__all__ = ["MAP"]
