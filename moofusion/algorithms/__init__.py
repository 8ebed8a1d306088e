"""How fronts are searched: pymoo algorithms of our own, and all of them by name."""

from moofusion.algorithms.preferences import parse_preference, preference_grid, simplex_lattice
from moofusion.algorithms.proposal import ListedProposals, ProposalAlgorithm
from moofusion.algorithms.random_search import RandomSearch
from moofusion.algorithms.registry import ALGORITHMS, AlgorithmEntry, get_algorithm
from moofusion.algorithms.sampling import CoefficientSampling
from moofusion.algorithms.soups import RewardedSoup, SimplexGrid

__all__ = [
    "ALGORITHMS",
    "AlgorithmEntry",
    "CoefficientSampling",
    "ListedProposals",
    "ProposalAlgorithm",
    "RandomSearch",
    "RewardedSoup",
    "SimplexGrid",
    "get_algorithm",
    "parse_preference",
    "preference_grid",
    "simplex_lattice",
]
