"""How fronts are searched: pymoo algorithms of our own, and all of them by name."""

from moofusion.algorithms.checkpoints import TrainedCheckpoints
from moofusion.algorithms.map import MAP, BayesianMAP, GradientMAP, NestedMAP, ReferenceMAP
from moofusion.algorithms.preferences import parse_preference, preference_grid, simplex_lattice
from moofusion.algorithms.proposal import ListedProposals, ProposalAlgorithm
from moofusion.algorithms.pwemoe import ParetoRouter, PWEMoE, RouterTraining
from moofusion.algorithms.random_search import RandomSearch
from moofusion.algorithms.registry import ALGORITHMS, AlgorithmEntry, get_algorithm
from moofusion.algorithms.repair import ParameterRepair
from moofusion.algorithms.sampling import CoefficientSampling
from moofusion.algorithms.scalarization import Scalarization
from moofusion.algorithms.scalarize import get_scalarizer
from moofusion.algorithms.soups import RewardedSoup, ScaledSoup, SimplexGrid

__all__ = [
    "ALGORITHMS",
    "MAP",
    "AlgorithmEntry",
    "BayesianMAP",
    "CoefficientSampling",
    "GradientMAP",
    "ListedProposals",
    "NestedMAP",
    "PWEMoE",
    "ParameterRepair",
    "ParetoRouter",
    "ProposalAlgorithm",
    "RandomSearch",
    "ReferenceMAP",
    "RewardedSoup",
    "RouterTraining",
    "Scalarization",
    "ScaledSoup",
    "SimplexGrid",
    "TrainedCheckpoints",
    "get_algorithm",
    "get_scalarizer",
    "parse_preference",
    "preference_grid",
    "simplex_lattice",
]
