"""Preferences: lattices, grids, and what users type."""

from math import comb

import numpy as np
import pytest

from moofusion.algorithms import parse_preference, preference_grid, simplex_lattice
from moofusion.algorithms.preferences import partitions_within
from moofusion.errors import ConfigurationError, UnknownNameError

NAMES = ["mnist", "fashion", "animals"]


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("partitions", [1, 2, 4, 10])
def test_a_lattice_has_all_points_once(parts, partitions):
    points = simplex_lattice(parts, partitions)
    assert points.shape == (comb(partitions + parts - 1, parts - 1), parts)
    steps = points * partitions
    assert steps == pytest.approx(np.round(steps))
    assert points.min() >= 0
    assert points.sum(axis=1) == pytest.approx(1)
    assert len(np.unique(np.round(steps), axis=0)) == len(points)


def test_a_lattice_is_that_of_pymoo():
    from pymoo.util.ref_dirs import get_reference_directions

    expected = get_reference_directions("das-dennis", 3, n_partitions=5)
    found = simplex_lattice(3, 5)
    assert sorted(map(tuple, found.round(9))) == sorted(map(tuple, expected.round(9)))


@pytest.mark.parametrize(("parts", "partitions"), [(0, 3), (2, 0), (-1, 2)])
def test_a_lattice_needs_positive_sizes(parts, partitions):
    with pytest.raises(ConfigurationError, match="positive sizes"):
        simplex_lattice(parts, partitions)


@pytest.mark.parametrize("parts", [2, 3, 4, 6])
@pytest.mark.parametrize("points", [1, 5, 20, 100, 1000])
def test_the_finest_lattice_that_fits(parts, points):
    partitions = partitions_within(parts, points)
    assert len(simplex_lattice(parts, partitions + 1)) > points
    assert len(simplex_lattice(parts, partitions)) <= points or partitions == 1


@pytest.mark.parametrize(("tasks", "points"), [(2, 11), (3, 66)])
def test_grids_for_few_tasks_have_steps_of_a_tenth(tasks, points, rng):
    grid = preference_grid(tasks, points, rng=rng)
    assert grid.shape == (points, tasks)
    assert len(np.unique(grid.round(9))) == 11


@pytest.mark.parametrize("tasks", [4, 5, 8])
def test_grids_for_many_tasks_have_the_centre_and_the_corners(tasks, rng):
    grid = preference_grid(tasks, 50, rng=rng)
    assert grid.shape == (50, tasks)
    assert grid.min() >= 0
    assert grid.sum(axis=1) == pytest.approx(1)
    rows = {tuple(row) for row in grid}
    assert {tuple(row) for row in np.eye(tasks)} <= rows
    assert (1 / tasks,) * tasks in rows


@pytest.mark.parametrize("points", [1, 3, 6])
def test_a_small_grid_keeps_to_its_size(points, rng):
    grid = preference_grid(5, points, rng=rng)
    assert len(grid) == points
    assert grid[0] == pytest.approx(0.2)


def test_grids_repeat_with_their_generator():
    grids = [preference_grid(5, 30, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert (grids[0] == grids[1]).all()
    assert (grids[0] != grids[2]).any()


# --------------------------------------------------------------------------------- parsing


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mnist=0.7,animals=0.3", [0.7, 0, 0.3]),
        ("animals=3, mnist=1", [0.25, 0, 0.75]),
        ("fashion=1e-3", [0, 1, 0]),
        (" mnist = 2 ", [1, 0, 0]),
        ("2,1, 1", [0.5, 0.25, 0.25]),
        ({"mnist": 1, "fashion": 1}, [0.5, 0.5, 0]),
        ([2, 1, 1], [0.5, 0.25, 0.25]),
        (np.array([0, 0, 5.0]), [0, 0, 1]),
    ],
)
def test_preferences_are_read_and_scaled(given, expected):
    assert parse_preference(given, NAMES) == pytest.approx(expected)


@pytest.mark.parametrize("given", ["minst=1", {"minst": 1.0}])
def test_an_unknown_objective(given):
    with pytest.raises(UnknownNameError, match="'minst'; did you mean 'mnist'"):
        parse_preference(given, NAMES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mnist=-1,fashion=2", "numbers >= 0, got mnist=-1"),
        ({"mnist": -0.5}, "numbers >= 0, got mnist=-0.5"),
        ([1, -1, 0], "fashion=-1"),
        ("mnist=0,fashion=0", "all preference weights are zero"),
        ([0, 0, 0], "all preference weights are zero"),
        ({}, "all preference weights are zero"),
        ("mnist=1,mnist=2", "'mnist' occurs twice"),
        ("mnist", "cannot read 'mnist'; expected a form such as"),
        ("", "cannot read ''"),
        ("mnist=", "cannot read 'mnist='"),
        ("mnist=many", "cannot read 'mnist=many'"),
        ("mnist=nan", "cannot read 'mnist=nan'"),
        ("mnist=inf", "cannot read 'mnist=inf'"),
        ("mnist=0.7;fashion=0.3", "cannot read 'mnist=0.7;fashion=0.3'"),
        ("mnist=0,7", "cannot read '7'"),
        ("1,2", "needs 3 numbers"),
        ("1,nan,1", "numbers >= 0"),
        ({"mnist": float("nan")}, "numbers >= 0"),
        ([float("inf"), 0, 0], "numbers >= 0"),
        ([1, 2], "needs 3 numbers .mnist, fashion, animals., got 2"),
        ([[1, 2, 3]], "needs 3 numbers"),
        (3.0, "needs 3 numbers"),
        ({"mnist": "much"}, "must be numbers, got .'much'"),
        (["a", "b", "c"], "must be numbers"),
    ],
)
def test_preferences_that_make_no_sense(given, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_preference(given, NAMES)
