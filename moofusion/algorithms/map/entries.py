"""The MAP algorithms by name, for the registry."""

from __future__ import annotations

from typing import Any

from pymoo.core.algorithm import Algorithm

from moofusion.algorithms.entry import AlgorithmEntry
from moofusion.algorithms.map.algorithm import MAP
from moofusion.algorithms.map.bayesian import BayesianMAP
from moofusion.algorithms.map.gradient import GradientMAP
from moofusion.algorithms.map.nested import NestedMAP
from moofusion.algorithms.map.reference import ReferenceMAP

__all__ = ["MAP_ENTRIES"]


def _map(
    problem: Any,
    n_samples: int | None = None,
    n_verify: int | None = None,
    rounds: int = 3,
    surrogate: str = "quadratic",
) -> Algorithm:
    return MAP(n_samples=n_samples, n_verify=n_verify, rounds=rounds, surrogate=surrogate)


def _map_bayes(
    problem: Any,
    n_samples: int | None = None,
    rounds: int = 5,
    optimism: float = 1.0,
    scheme: str = "hypervolume",
    surrogate: str = "quadratic",
) -> Algorithm:
    return BayesianMAP(
        n_samples=n_samples, rounds=rounds, optimism=optimism, scheme=scheme, surrogate=surrogate
    )


def _map_nested(problem: Any, per_pair: int | None = None, pairing: str = "metric") -> Algorithm:
    return NestedMAP(per_pair=per_pair, pairing=pairing)


def _map_gradient(
    problem: Any,
    n_gradients: int | None = None,
    n_samples: int | None = None,
    rounds: int = 2,
    design: str = "spread",
    share: float = 0.125,
) -> Algorithm:
    return GradientMAP(
        n_gradients=n_gradients, n_samples=n_samples, rounds=rounds, design=design, share=share
    )


def _map_reference(
    problem: Any, n_samples: int | None = None, n_verify: int | None = None
) -> Algorithm:
    return ReferenceMAP(n_samples=n_samples, n_verify=n_verify)


MAP_ENTRIES: dict[str, AlgorithmEntry] = {
    "map": AlgorithmEntry(_map, "MAP: surrogates, their front, verified (Li et al. 2024)"),
    "map_bayes": AlgorithmEntry(_map_bayes, "Bayesian MAP, points added in rounds"),
    "map_nested": AlgorithmEntry(_map_nested, "nested MAP, equal preferences: two at a time"),
    "map_gradient": AlgorithmEntry(_map_gradient, "MAP from values and gradients of the losses"),
    "map_reference": AlgorithmEntry(_map_reference, "MAP as its authors published it"),
}
