import numpy as np
import pytest

from moofusion import hypervolume
from moofusion.comparison.quality import REFERENCE, hypervolume_backend, nondominated
from moofusion.errors import ConfigurationError

# Sets whose volume can be written down: (points, reference, volume).
KNOWN = {
    "2d staircase": ([[0, 2], [1, 1], [2, 0]], 3.0, 3 + 2 + 1),
    "2d one point": ([[0.25, 0.5]], 1.0, 0.75 * 0.5),
    "2d dominated point adds nothing": ([[0, 0], [0.5, 0.5]], 1.0, 1.0),
    "3d corners": ([[0, 0, 0.5], [0, 0.5, 0], [0.5, 0, 0]], 1.0, 1 - 0.5**3),
    "3d unequal reference": ([[0, 0, 0]], [1, 2, 3], 6.0),
    "4d corners": (0.5 * np.eye(4)[:, ::-1], 1.0, 1 - 0.5**4),
    "4d two boxes": (
        [[0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0]],
        1.0,
        0.25 + 0.25 - 0.5**4,
    ),
}


def _boxes(points, reference):
    """Inclusion and exclusion over all subsets: slow and obvious."""
    points = np.asarray(points, float)
    ref = np.broadcast_to(reference, points.shape[1:])
    total = 0.0
    for subset in range(1, 2 ** len(points)):
        chosen = points[[i for i in range(len(points)) if subset >> i & 1]]
        box = np.prod(np.clip(ref - chosen.max(axis=0), 0, None))
        total += box if len(chosen) % 2 else -box
    return total


@pytest.mark.parametrize("name", KNOWN)
def test_sets_computed_by_hand(name):
    points, reference, volume = KNOWN[name]
    assert hypervolume(points, reference=reference) == pytest.approx(volume, rel=1e-12)


@pytest.mark.parametrize("n_obj", [2, 3, 4, 5])
def test_agrees_with_inclusion_and_exclusion(n_obj, rng):
    points = rng.uniform(-0.3, 1.3, (9, n_obj))
    assert hypervolume(points) == pytest.approx(_boxes(points, REFERENCE), rel=1e-10)


@pytest.mark.parametrize("n_obj", [2, 3, 4, 7])
def test_the_order_of_the_points_does_not_matter(n_obj, rng):
    points = rng.dirichlet(np.ones(n_obj), 40)
    volumes = {hypervolume(points[rng.permutation(40)]) for _ in range(5)}
    assert len(volumes) == 1


def test_points_outside_of_the_reference_add_nothing(rng):
    inside = rng.uniform(0, 1, (10, 3))
    outside = np.array([[-5.0, 0.1, 1.1], [0.0, 0.0, 99.0], [1.2, -1.0, -1.0]])
    assert hypervolume(np.vstack([inside, outside])) == hypervolume(inside)
    assert hypervolume(outside) == 0.0


def test_a_point_better_than_every_anchor_counts_in_full():
    assert hypervolume([[-0.4, -0.4]]) == pytest.approx(1.5**2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused(bad):
    with pytest.raises(ConfigurationError, match="1 NaN or infinite"):
        hypervolume([[0.0, bad]])
    with pytest.raises(ConfigurationError, match="NaN or infinite"):
        nondominated([[0.0, bad]])
    with pytest.raises(ConfigurationError, match="reference point must be a finite number"):
        hypervolume([[0.0, 0.0]], reference=[1.0, bad])


def test_wrong_shapes_are_refused():
    with pytest.raises(ConfigurationError, match="shape"):
        hypervolume([0.0, 1.0])
    with pytest.raises(ConfigurationError, match="or 2 of them"):
        hypervolume([[0.0, 1.0]], reference=[1.0, 1.0, 1.0])


def test_the_empty_set_has_no_volume():
    assert hypervolume(np.empty((0, 3))) == 0.0


def test_many_objectives_are_approximated_closely(rng):
    # A single box: its volume is known in any dimension.
    assert hypervolume_backend(12, 10) == "approximate"
    corner = np.full((1, 12), 0.2)
    assert hypervolume(corner) == pytest.approx(0.9**12, rel=1e-2)
    # Seven objectives, ten points: inclusion and exclusion is exact.
    points = rng.uniform(0, 1, (10, 7))
    assert hypervolume(points) == pytest.approx(_boxes(points, REFERENCE), rel=1e-2)


def test_six_objectives_are_exact_for_small_sets(rng):
    assert hypervolume_backend(6, 200) == "exact"
    points = rng.uniform(0, 1, (10, 6))
    assert hypervolume(points) == pytest.approx(_boxes(points, REFERENCE), rel=1e-10)


def test_nondominated_keeps_one_of_equal_points(rng):
    points = rng.integers(0, 5, (60, 3)).astype(float)
    mask = nondominated(points)
    for i, point in enumerate(points):
        beaten = ((points <= point).all(axis=1) & (points < point).any(axis=1)).any()
        repeated = (points[:i] == point).all(axis=1).any()
        assert mask[i] == (not beaten and not repeated)
