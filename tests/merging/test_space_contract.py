"""The contract of search spaces, for every space of the package."""

import pytest
import tiny

from moofusion.merging import SPACES, make_method, make_space, searched_space
from moofusion.testing import SpaceContract
from moofusion.weights import ParameterLayout

EXPERTS = ("a", "b", "c")
LAYOUT = ParameterLayout({name: tuple(p.shape) for name, p in tiny.net(depth=6).named_parameters()})
VARIANTS = [
    ("task-wise", {}),
    ("block-wise", {"lower": -0.5, "upper": 1.5}),
    ("module-wise", {}),
    ("tensor-wise", {}),
    ("depth-spline", {"controls": 4}),
    ("simplex", {"scale": 1.3}),
    ("simplex", {"granularity": "block"}),
    ("block-wise", {"select": "mlp", "static": 0.1}),
    ("depth-spline", {"controls": 2, "lower": -1.0, "upper": 2.0}),
    ("depth-spline", {"granularity": "tensor", "select": "mlp+attention"}),
]


def test_every_kind_is_covered_here():
    assert {kind for kind, _ in VARIANTS} == set(SPACES)


class TestSpaces(SpaceContract):
    @pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}-{'-'.join(v[1]) or 'plain'}")
    def space(self, request):
        kind, options = request.param
        return make_space(kind, LAYOUT, EXPERTS, **options)


class TestSplineOfManyControls(SpaceContract):
    """More controls than depths: many decisions fit, and not all lie within the bounds."""

    invertible = False

    @pytest.fixture
    def space(self):
        return make_space("depth-spline", LAYOUT, EXPERTS, controls=12)


class TestSearchedParameters(SpaceContract):
    differentiable = False

    @pytest.fixture
    def space(self):
        inner = make_space("block-wise", LAYOUT, EXPERTS)
        return searched_space(inner, make_method("ties"), ["density"])
