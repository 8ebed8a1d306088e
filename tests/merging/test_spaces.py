"""Search spaces: coefficients and back, gradients, bounds, names, errors."""

import numpy as np
import pytest
import tiny

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging import SPACES, DepthSpline, GroupWise, Simplex, make_space
from moofusion.weights import ParameterLayout

EXPERTS = ("a", "b", "c")
LAYOUT = ParameterLayout({name: tuple(p.shape) for name, p in tiny.net(depth=6).named_parameters()})
BLOCKS = len(LAYOUT.blocks)
OPTIONS = {
    "task-wise": {},
    "block-wise": {"lower": -0.5, "upper": 1.5},
    "module-wise": {},
    "tensor-wise": {},
    "depth-spline": {"controls": 4},
    "simplex": {"scale": 1.3},
}
VARIANTS = [
    *[(kind, options) for kind, options in OPTIONS.items()],
    ("simplex", {"granularity": "block"}),
    ("block-wise", {"select": "mlp", "static": 0.1}),
    ("depth-spline", {"controls": 2, "lower": -1.0, "upper": 2.0}),
    ("depth-spline", {"controls": 12}),
    ("depth-spline", {"granularity": "tensor", "select": "mlp+attention"}),
]


@pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}-{'-'.join(v[1]) or 'plain'}")
def space(request):
    kind, options = request.param
    return make_space(kind, LAYOUT, EXPERTS, **options)


def _samples(space, rng, count=20):
    return rng.uniform(space.xl, space.xu, (count, space.n_var))


@pytest.mark.parametrize("kind", ["task-wise", "block-wise", "module-wise", "tensor-wise"])
def test_group_wise_decisions_are_the_coefficients_themselves(kind, rng):
    space = make_space(kind, LAYOUT, EXPERTS)
    X = _samples(space, rng)
    assert (space.coefficients(X).reshape(len(X), -1) == X).all()
    assert space.decision(space.coefficients(X)) == pytest.approx(X, abs=1e-12)


def test_the_same_coefficients_everywhere(space):
    rows = np.array([[0.2, 0.3, 0.4], [1.3, 0, 0]])
    if isinstance(space, Simplex):
        rows = space.scale * rows / rows.sum(axis=1, keepdims=True)
    rows = np.minimum(rows, space.xu.max() if not isinstance(space, Simplex) else np.inf)
    L = space.coefficients(space.uniform(rows))
    assert L == pytest.approx(np.repeat(rows[:, None], space.n_groups, axis=1), abs=1e-9)


def test_decisions_are_clipped_to_the_bounds():
    space = make_space("task-wise", LAYOUT, EXPERTS, lower=0.1, upper=0.6)
    assert space.decision(np.array([[[-3.0, 0.5, 9.0]]])).tolist() == [[0.1, 0.5, 0.6]]


@pytest.mark.parametrize("controls", range(2, 10))
def test_a_spline_stays_within_the_bounds_of_its_controls(controls, rng):
    space = make_space("depth-spline", LAYOUT, EXPERTS, controls=controls, lower=-0.2, upper=0.7)
    assert space.n_var == 3 * controls
    corners = rng.choice([-0.2, 0.7], size=(200, space.n_var))
    L = space.coefficients(corners)
    assert L.min() >= -0.2 - 1e-12
    assert L.max() <= 0.7 + 1e-12


@pytest.mark.parametrize("controls", [2, 3, 5])
def test_a_spline_meets_its_ends_and_keeps_constants(controls):
    space = make_space("depth-spline", LAYOUT, EXPERTS, controls=controls)
    x = np.linspace(0, 1, space.n_var)
    L = space.coefficients(x)[0]
    at = dict(zip(space.partition.names, L, strict=True))
    assert at["layers.0"] == pytest.approx(x[:3])
    assert at["layers.5"] == pytest.approx(x[-3:])
    assert space.coefficients(np.full(space.n_var, 0.4)) == pytest.approx(0.4)


def test_a_spline_of_two_controls_is_a_straight_line():
    space = make_space("depth-spline", LAYOUT, ("a",), controls=2, select="layers.*")
    assert space.coefficients(np.array([0.0, 1.0]))[0, :, 0] == pytest.approx(np.linspace(0, 1, 6))


def test_a_spline_of_one_block_is_a_constant():
    layout = ParameterLayout({"w": (3,)})
    space = make_space("depth-spline", layout, ("a",), controls=3)
    assert np.isfinite(space.coefficients(np.array([0.1, 0.5, 0.9]))).all()


def test_a_simplex_sums_to_its_scale(rng):
    space = make_space("simplex", LAYOUT, EXPERTS, granularity="block", scale=1.3)
    L = space.coefficients(_samples(space, rng))
    assert L.sum(axis=2) == pytest.approx(1.3)
    assert L.min() >= 0


def test_a_simplex_at_zero_stands_for_equal_coefficients():
    space = make_space("simplex", LAYOUT, EXPERTS, scale=1.5)
    assert space.coefficients(np.zeros(3)).tolist() == [[[0.5, 0.5, 0.5]]]
    assert space.decision(np.zeros((1, 1, 3))) == pytest.approx(1 / 3)
    assert np.isfinite(space.pullback(np.zeros(3), np.ones((1, 3)))).all()


def test_a_simplex_depends_on_the_direction_alone(rng):
    space = make_space("simplex", LAYOUT, EXPERTS)
    X = _samples(space, rng)
    assert space.coefficients(0.1 * X) == pytest.approx(space.coefficients(X))
    for x in X[:3]:
        assert space.pullback(x, rng.normal(size=(1, 3))) @ x == pytest.approx(0, abs=1e-12)


def test_names_tell_group_and_expert():
    assert make_space("task-wise", LAYOUT, EXPERTS).names == EXPERTS
    assert make_space("simplex", LAYOUT, EXPERTS).names == EXPERTS
    names = make_space("block-wise", LAYOUT, EXPERTS).names
    assert names[:4] == ("stem:a", "stem:b", "stem:c", "layers.0:a")
    spline = make_space("depth-spline", LAYOUT, EXPERTS, controls=3).names
    assert spline[0] == "depth0.00:a"
    assert spline[-1] == "depth1.00:c"


def test_the_number_of_variables_is_groups_times_experts():
    sizes = {k: make_space(k, LAYOUT, EXPERTS).n_var // 3 for k in SPACES}
    assert sizes["task-wise"] == sizes["simplex"] == 1
    assert sizes["block-wise"] == BLOCKS
    assert sizes["module-wise"] == len(LAYOUT.partition("module").names)
    assert sizes["tensor-wise"] == len(LAYOUT.entries)
    assert sizes["depth-spline"] == 3


def test_what_is_left_out_keeps_its_coefficients():
    assert make_space("task-wise", LAYOUT, EXPERTS).static.tolist() == [0.3, 0.3, 0.3]
    space = make_space("task-wise", LAYOUT, EXPERTS, select="mlp", static=[0.1, 0.2, 0.3])
    assert space.static.tolist() == [0.1, 0.2, 0.3]
    assert space.partition.has_static


def test_classes_may_be_used_directly():
    partition = LAYOUT.partition("block")
    assert GroupWise(partition, EXPERTS).n_var == 3 * BLOCKS
    assert DepthSpline(partition, EXPERTS).n_var == 9
    assert Simplex(partition, EXPERTS).n_var == 3 * BLOCKS
    assert "block" in repr(GroupWise(partition, EXPERTS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lower": 1.0, "upper": 0.5}, "lower < upper, got 1.0 and 0.5"),
        ({"lower": 0.5, "upper": 0.5}, "lower < upper"),
        ({"upper": float("nan")}, "finite"),
        ({"upper": float("inf")}, "finite"),
        ({"upper": "many"}, "task-wise"),
        ({"scale": 2.0}, "task-wise.*scale"),
        ({"controls": 3}, "task-wise.*controls"),
        ({"static": [0.1, 0.2]}, "static.*3 experts"),
        ({"static": float("nan")}, "static"),
        ({"static": "some"}, "task-wise"),
        ({"select": "nothing.*"}, "'nothing.*' matches no tensor"),
        ({"granularity": "layer"}, "unknown granularity 'layer'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        make_space("task-wise", LAYOUT, EXPERTS, **options)


@pytest.mark.parametrize("controls", [1, 0, -2])
def test_a_spline_needs_two_controls(controls):
    with pytest.raises(ConfigurationError, match=f"at least 2 controls, got {controls}"):
        make_space("depth-spline", LAYOUT, EXPERTS, controls=controls)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_simplex_needs_a_positive_scale(scale):
    with pytest.raises(ConfigurationError, match="scale must be positive"):
        make_space("simplex", LAYOUT, EXPERTS, scale=scale)


def test_an_unknown_space_is_refused():
    with pytest.raises(UnknownNameError, match="'block-wise'"):
        make_space("blockwise", LAYOUT, EXPERTS)
