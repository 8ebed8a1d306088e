"""Attainment surfaces and differences against counting runs point by point."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from moofusion.comparison.attainment import (
    attainment_difference,
    attainment_surfaces,
    split_by_set,
)
from moofusion.comparison.quality import nondominated
from moofusion.errors import ConfigurationError


def runs(n, m, rng, *, integers=False):
    sizes = rng.integers(1, 6, n)
    if integers:
        return [rng.integers(0, 6, (size, m)).astype(float) for size in sizes]
    return [rng.random((size, m)) for size in sizes]


def attained(sets, point):
    """Share of the sets with a point that weakly dominates `point`."""
    return np.mean([(F <= point).all(axis=1).any() for F in sets])


def slow_surface(sets, n_needed):
    """Minimal points of the grid of all coordinates that enough runs attain."""
    every = np.vstack(sets)
    grid = np.array(list(product(*(np.unique(column) for column in every.T))))
    counts = sum((F <= grid[:, None]).all(axis=2).any(axis=1).astype(int) for F in sets)
    reached = grid[counts >= n_needed]
    return reached[nondominated(reached)]


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_surfaces_agree_with_counting(n, m, integers, rng):
    sets = runs(n, m, rng, integers=integers)
    levels = (0.25, 0.5, 0.75, 1.0)
    for level, surface in zip(levels, attainment_surfaces(sets, levels=levels), strict=True):
        assert surface.n_needed == int(np.ceil(level * n))
        assert surface.level == level
        assert surface.n_runs == n
        assert np.array_equal(surface.points, slow_surface(sets, surface.n_needed))


def test_every_share_of_the_runs_means_the_right_number_of_runs():
    for n in range(1, 41):
        sets = [[[i, i]] for i in range(n)]
        found = attainment_surfaces(sets, levels=[k / n for k in range(1, n + 1)])
        assert [surface.n_needed for surface in found] == list(range(1, n + 1))
        assert [surface.points.tolist() for surface in found] == [[[i, i]] for i in range(n)]


def test_surfaces_are_nested_and_do_not_depend_on_the_order(rng):
    sets = runs(7, 3, rng)
    found = attainment_surfaces(sets)
    for better, worse in pairwise(found):
        assert all((better.points <= p).all(axis=1).any() for p in worse.points)
    shuffled = attainment_surfaces([F[rng.permutation(len(F))] for F in sets[::-1]])
    for a, b in zip(found, shuffled, strict=True):
        assert np.array_equal(a.points, b.points)


def test_rows_of_interleaved_sets_are_grouped_first(rng):
    sets = runs(6, 2, rng)
    labels = np.repeat([40, 10, 50, 20, 60, 30], [len(F) for F in sets])
    order = rng.permutation(len(labels))
    table, marks = np.vstack(sets)[order], labels[order]
    split = split_by_set(table, marks)
    assert [len(F) for F in split] == [(labels == seed).sum() for seed in range(10, 61, 10)]
    for a, b in zip(attainment_surfaces(split), attainment_surfaces(sets), strict=True):
        assert np.array_equal(a.points, b.points)


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("n", [1, 3, 6])
def test_differences_agree_with_counting(n, integers, rng):
    for _ in range(10):
        first, second = (runs(n, 2, rng, integers=integers) for _ in range(2))
        found = attainment_difference(first, second)
        points = rng.integers(-1, 8, (40, 2)) if integers else 1.2 * rng.random((40, 2))
        for point in points:
            expected = attained(first, point) - attained(second, point)
            assert found.at(point) == pytest.approx(expected)
        assert (found.differences != 0).all()
        assert (np.abs(found.differences) <= 1).all()
        assert (found.rectangles[:, :2] < found.rectangles[:, 2:]).all()


def test_swapping_the_algorithms_turns_the_sign(rng):
    first, second = runs(5, 2, rng), runs(5, 2, rng)
    a, b = attainment_difference(first, second), attainment_difference(second, first)
    for point in rng.random((50, 2)):
        assert a.at(point) == -b.at(point)


def test_equal_algorithms_differ_nowhere(rng):
    sets = runs(4, 2, rng)
    found = attainment_difference(sets, sets[::-1])
    assert found.rectangles.shape == (0, 4)
    assert found.at([0.5, 0.5]) == 0


@pytest.mark.parametrize(
    ("sets", "match"),
    [
        ([], "at least one run"),
        ([np.ones((2, 4))], "2 and 3 objectives, got 4"),
        ([np.ones((2, 1))], "2 and 3 objectives, got 1"),
        ([np.ones((1, 2)), np.empty((0, 2))], "empty: run 2"),
        ([np.ones((1, 2)), np.ones((1, 3))], "run 2 must have shape"),
        ([[[np.nan, 1]]], "run 1 hold 1 NaN"),
        ([[[np.inf, 1]]], "run 1 hold 1 NaN or infinite"),
    ],
)
def test_wrong_runs_are_refused(sets, match):
    with pytest.raises(ConfigurationError, match=match):
        attainment_surfaces(sets)


@pytest.mark.parametrize("level", [0, -0.5, 1.01, 50, np.nan])
def test_levels_that_are_no_shares_are_refused(level):
    with pytest.raises(ConfigurationError, match="shares of the runs"):
        attainment_surfaces([[[0, 1]]], levels=[level])


def test_differences_that_do_not_exist_are_refused():
    two, three = [np.ones((1, 2))] * 2, [np.ones((1, 2))] * 3
    with pytest.raises(ConfigurationError, match="same number of runs of both algorithms, got 2"):
        attainment_difference(two, three)
    with pytest.raises(ConfigurationError, match="exist for 2 objectives, got 3"):
        attainment_difference([np.ones((1, 3))], [np.ones((1, 3))])
    with pytest.raises(ConfigurationError, match="2 rows need 2 set labels"):
        split_by_set(np.ones((2, 2)), [1])


def test_arguments_stay_unchanged(rng):
    sets = runs(3, 2, rng)
    before = [F.copy() for F in sets]
    for F in sets:
        F.setflags(write=False)
    attainment_surfaces(sets)
    attainment_difference(sets, [F + 0.1 for F in sets])
    assert all(np.array_equal(a, b) for a, b in zip(sets, before, strict=True))
