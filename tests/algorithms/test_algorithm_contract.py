"""The contract of algorithms, for every algorithm of the registry."""

import importlib.util

import pytest

from moofusion.algorithms import ALGORITHMS, get_algorithm
from moofusion.algorithms.evolution import EVOLUTION
from moofusion.testing import AlgorithmContract, AlgorithmTraits

# A few steps on everything, and a budget that is no multiple of a population.
TEXT = {
    "pwemoe": "pwemoe:steps=3,routed=all",
    "constant": "constant:steps=3,routed=all",
    "scalarization": "scalarization:steps=3",
    "random": "random:batch_size=7",
    "map": "map:rounds=1",
    "map_bayes": "map_bayes:rounds=1",
    "map_gradient": "map_gradient:rounds=1",
} | {name: f"{name}:pop_size=8" for name in EVOLUTION}
# The files that "checkpoints" measures have tests of their own.
NAMES = [name for name in ALGORITHMS if name != "checkpoints"]
SEVERAL = ("agemoea", "agemoea2", "ctaea", "moead", "rvea", "smsemoa")
LISTED = ("grid", "soup", "scaled_soup", "pwemoe", "constant", "scalarization")
TRAITS = (
    {
        name: AlgorithmTraits(
            overshoot=7,
            archive=False,
            refused=(1,) if name in SEVERAL else (),
            constraints=name != "moead",
        )
        for name in EVOLUTION
    }
    | {name: AlgorithmTraits(stops_early=True) for name in LISTED}
    # The published procedure searches [-3, 3], whatever the bounds.
    | {"map_reference": AlgorithmTraits(bounded=False)}
    | {"map_nested": AlgorithmTraits(random=False, refused=(1,))}
)
needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None,
    reason="pymoo's AGE-MOEA-II needs numba, which is not installed",
)


class TestAlgorithms(AlgorithmContract):
    @pytest.fixture(
        params=[pytest.param(n, marks=needs_numba if n == "agemoea2" else ()) for n in NAMES]
    )
    def name(self, request):
        return request.param

    @pytest.fixture
    def make_algorithm(self, name):
        return lambda problem: get_algorithm(TEXT.get(name, name), problem)

    @pytest.fixture
    def traits(self, name):
        return TRAITS.get(name, AlgorithmTraits())
