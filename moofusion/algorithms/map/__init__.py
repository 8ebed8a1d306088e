"""MAP: amortized Pareto fronts from surrogates of the metrics, in five variants."""

from moofusion.algorithms.map.algorithm import MAP
from moofusion.algorithms.map.bayesian import BayesianMAP
from moofusion.algorithms.map.core import Predicted, SurrogateAlgorithm
from moofusion.algorithms.map.entries import MAP_ENTRIES
from moofusion.algorithms.map.gradient import GradientMAP
from moofusion.algorithms.map.nested import NestedMAP
from moofusion.algorithms.map.reference import ReferenceMAP

__all__ = [
    "MAP",
    "MAP_ENTRIES",
    "BayesianMAP",
    "GradientMAP",
    "NestedMAP",
    "Predicted",
    "ReferenceMAP",
    "SurrogateAlgorithm",
]
