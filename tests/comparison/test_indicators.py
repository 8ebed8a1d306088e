"""Hypervolume against other libraries, reference points, backends, and the other indicators."""

from __future__ import annotations

import numpy as np
import pytest
from pymoo.indicators.hv import Hypervolume as PymooHypervolume
from pymoo.indicators.igd_plus import IGDPlus

from moofusion.comparison import indicators, quality
from moofusion.comparison.indicators import (
    additive_epsilon,
    extents,
    igd_plus,
    pooled_front,
    relative_hypervolume,
    set_indicators,
)
from moofusion.comparison.quality import (
    backend_text,
    hypervolume,
    hypervolume_backend,
    nondominated,
    reference_point,
)
from moofusion.errors import ConfigurationError, UnknownNameError


def cloud(n, m, seed=0):
    """Points around a concave front in the unit box."""
    rng = np.random.default_rng(seed)
    x = np.abs(rng.normal(size=(n, m)))
    return x / np.linalg.norm(x, axis=1, keepdims=True) * rng.uniform(0.9, 1.2, size=(n, 1))


ALL = {
    "nondominated": lambda F: nondominated(F),
    "hypervolume": lambda F: hypervolume(F),
    "pooled_front": lambda F: pooled_front([F, F]),
    "relative_hypervolume": lambda F: relative_hypervolume(F, cloud(5, 3)),
    "igd_plus": lambda F: igd_plus(F, cloud(5, 3)),
    "additive_epsilon": lambda F: additive_epsilon(F, cloud(5, 3)),
    "to a pooled front": lambda F: igd_plus(cloud(5, 3), F),
    "extents": lambda F: extents(F),
    "set_indicators": lambda F: set_indicators([F]),
}
ORDER_FREE = [name for name in ALL if name != "nondominated"]


@pytest.fixture
def no_pygmo(monkeypatch):
    monkeypatch.setattr(quality, "_has_pygmo", lambda: False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ALL)
def test_nan_and_infinite_values_are_refused(name, bad):
    F = cloud(4, 3)
    F[2, 1] = bad
    with pytest.raises(ConfigurationError, match="1 NaN or infinite"):
        ALL[name](F)


@pytest.mark.parametrize("F", [[1.0, 2.0], np.zeros((2, 2, 2)), [[1, 2], [3]], [["a", "b"]], 3.0])
@pytest.mark.parametrize("name", ALL)
def test_what_is_no_table_is_refused(name, F):
    with pytest.raises(ConfigurationError, match="must"):
        ALL[name](F)


@pytest.mark.parametrize("name", ALL)
def test_arguments_stay_unchanged_and_may_be_read_only(name):
    F = cloud(6, 3)
    F.setflags(write=False)
    before = F.copy()
    ALL[name](F)
    assert np.array_equal(F, before)


@pytest.mark.parametrize("name", ORDER_FREE)
def test_the_order_of_points_does_not_matter(name):
    F = cloud(40, 3).round(1)
    expected = ALL[name](F)
    for seed in range(5):
        shuffled = ALL[name](F[np.random.default_rng(seed).permutation(len(F))])
        if name in ("igd_plus", "to a pooled front"):
            assert shuffled == pytest.approx(expected, abs=1e-15)
        elif name == "set_indicators":
            assert shuffled[0].hypervolume == expected[0].hypervolume
            assert shuffled[0].n_points == expected[0].n_points
        else:
            assert np.array_equal(shuffled, expected)


# Hypervolume


@pytest.mark.parametrize(
    ("F", "reference", "expected"),
    [
        ([[0.0, 0.5], [0.5, 0.0], [0.5, 0.5], [0.0, 0.5]], 1.0, 0.75),
        ([[0.0, 0.5], [2.0, -9.0]], 1.0, 0.5),
        ([[1.0, 0.0]], 1.0, 0.0),
        ([[1, 1]], [2, 3], 2.0),
        ([[0.25]], 1.0, 0.75),
    ],
)
def test_hypervolume_at_the_edges_computed_by_hand(F, reference, expected):
    assert hypervolume(F, reference=reference) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("m", [2, 3, 4, 5, 6])
def test_exact_hypervolume_agrees_with_two_other_libraries(m):
    pygmo = pytest.importorskip("pygmo")
    F = cloud(60, m)
    inside = F[(F < 1.1).all(axis=1)]
    expected = pygmo.hypervolume(inside).compute(np.full(m, 1.1))
    assert hypervolume(F) == pytest.approx(expected, rel=1e-12)
    assert hypervolume(F, backend="wfg") == pytest.approx(expected, rel=1e-12)
    if m < 5:
        assert hypervolume(F) == pytest.approx(PymooHypervolume(ref_point=np.full(m, 1.1))(F))


@pytest.mark.parametrize("m", [6, 7, 8])
def test_the_approximation_is_as_close_as_the_tables_say(m):
    pytest.importorskip("pygmo")
    F = cloud(60, m)
    exact = hypervolume(F, backend="wfg")
    final = hypervolume(F, backend="approximate")
    assert final == pytest.approx(exact, rel=4e-3)
    assert hypervolume(F, backend="approximate", purpose="curve") == pytest.approx(exact, rel=1e-2)
    assert hypervolume(F, backend="approximate") == final


def test_hypervolume_never_falls_when_a_point_is_added():
    F = cloud(60, 3)
    values = [hypervolume(F[: i + 1]) for i in range(len(F))]
    assert (np.diff(values) >= -1e-15).all()
    enters = [nondominated(F[: i + 1])[i] and (F[i] < 1.1).all() for i in range(len(F))]
    assert [bool(step > 1e-15) for step in np.diff(values)] == enters[1:]


@pytest.mark.parametrize(
    ("m", "n", "purpose", "backend"),
    [
        (2, 10**6, "final", "exact"),
        (5, 10**6, "curve", "exact"),
        (6, 250, "curve", "exact"),
        (6, 251, "final", "wfg"),
        (6, 251, "curve", "approximate"),
        (7, 100, "curve", "wfg"),
        (7, 300, "final", "wfg"),
        (7, 301, "final", "approximate"),
        (8, 151, "final", "approximate"),
        (11, 2, "final", "approximate"),
    ],
)
def test_the_backend_follows_objectives_and_points(m, n, purpose, backend, monkeypatch):
    monkeypatch.setattr(quality, "_has_pygmo", lambda: True)
    assert hypervolume_backend(m, n, purpose=purpose) == backend
    monkeypatch.setattr(quality, "_has_pygmo", lambda: False)
    without = "approximate" if backend == "wfg" else backend
    assert hypervolume_backend(m, n, purpose=purpose) == without


def test_tables_name_the_backend():
    assert backend_text("wfg") == "exact (WFG of pygmo)"
    assert "2^18 samples" in backend_text("approximate")
    assert "2^15 samples" in backend_text("approximate", purpose="curve")


def test_unusable_backends_are_refused(no_pygmo):
    with pytest.raises(ConfigurationError, match="pip install pygmo"):
        hypervolume(cloud(3, 2), backend="wfg")
    with pytest.raises(UnknownNameError, match="unknown hypervolume backend 'exakt'"):
        hypervolume(cloud(3, 2), backend="exakt")
    with pytest.raises(UnknownNameError, match="purpose"):
        hypervolume_backend(3, 3, purpose="table")


# Reference point


@pytest.mark.parametrize(
    ("m", "expected"), [(2, 1.0101), (3, 1.0833), (4, 1.1667), (6, 1.3333), (8, 1.5)]
)
def test_ishibuchi_reference_for_a_hundred_points(m, expected):
    point = reference_point("ishibuchi", n_obj=m, set_size=100)
    assert point == pytest.approx(np.full(m, expected), abs=1e-4)


@pytest.mark.parametrize("reference", [[1.0, 2.0], np.nan, [1, np.inf, 1], [[1, 1, 1]], None])
def test_wrong_reference_points_are_refused(reference):
    with pytest.raises(ConfigurationError, match="finite number or 3 of them"):
        reference_point(reference, n_obj=3)
    with pytest.raises(ConfigurationError, match="finite number or 3 of them"):
        hypervolume(cloud(3, 3), reference=reference)


def test_a_reference_that_depends_on_the_set_size_needs_it():
    with pytest.raises(ConfigurationError, match="depends on the set size"):
        hypervolume(cloud(3, 3), reference="ishibuchi")
    with pytest.raises(UnknownNameError, match="did you mean 'ishibuchi'"):
        reference_point("ishibuci", n_obj=3)


# Against a pooled front


def test_pooled_front_holds_what_no_set_dominates():
    sets = [cloud(20, 3, seed).round(1) for seed in range(4)]
    pooled = pooled_front([*sets, np.empty((0, 3))])
    union = np.unique(np.vstack(sets), axis=0)
    dominated = [any((q <= p).all() and (q < p).any() for q in union) for p in union]
    assert np.array_equal(pooled, union[~np.array(dominated)])
    assert np.array_equal(pooled, pooled_front(sets[::-1]))


def test_igd_plus_prefers_the_better_set_of_the_source():
    pooled = [[10, 0], [6, 1], [2, 2], [1, 6], [0, 10]]
    better, worse = [[4, 2], [3, 3], [2, 4]], [[8, 2], [4, 4], [2, 8]]
    assert igd_plus(better, pooled) == pytest.approx(1.482842712474619)
    assert igd_plus(worse, pooled) == pytest.approx(2.260112615949154)


@pytest.mark.parametrize("m", [2, 3, 7])
def test_distances_agree_with_a_second_computation(m):
    F, pooled = cloud(30, m), pooled_front([cloud(50, m, 1)])
    assert igd_plus(F, pooled) == pytest.approx(IGDPlus(pooled)(F), rel=1e-12)
    shift = max(min(max(a - z) for a in F) for z in pooled)
    assert additive_epsilon(F, pooled) == shift
    assert additive_epsilon(F - shift, pooled) == pytest.approx(0, abs=1e-12)


def test_the_pooled_front_scores_perfectly_and_parts_of_it_less():
    sets = [cloud(15, 3, seed) for seed in range(3)]
    pooled = pooled_front(sets)
    whole, part, empty = set_indicators([pooled, sets[0], np.empty((0, 3))], pooled=pooled)
    assert (whole.relative_hypervolume, whole.igd_plus, whole.epsilon) == (1.0, 0.0, 0.0)
    assert whole.n_points == len(pooled)
    assert whole.extents == pytest.approx(np.ptp(pooled, axis=0))
    assert part.relative_hypervolume < 1
    assert part.igd_plus > 0 < part.epsilon
    assert (empty.hypervolume, empty.igd_plus, empty.epsilon) == (0, np.inf, np.inf)
    assert (empty.n_points, empty.extents) == (0, (0, 0, 0))


def test_a_set_cannot_gain_from_losing_a_point():
    F, pooled = cloud(30, 3), pooled_front([cloud(50, 3, 1), cloud(30, 3)])
    front = F[nondominated(F)]
    fewer = front[1:]
    assert igd_plus(fewer, pooled) >= igd_plus(front, pooled) == igd_plus(F, pooled)
    assert additive_epsilon(fewer, pooled) >= additive_epsilon(front, pooled)
    assert relative_hypervolume(fewer, pooled) < relative_hypervolume(front, pooled) < 1


def test_all_sets_of_a_table_share_the_backend_of_the_largest(no_pygmo):
    sets = [cloud(10, 6), cloud(600, 6, 1)]
    assert hypervolume_backend(6, 10) == "exact"
    small, large = set_indicators(sets)
    assert small.backend == large.backend == "approximate"
    assert small.hypervolume == hypervolume(sets[0], backend="approximate")
    assert relative_hypervolume(sets[0], pooled_front(sets)) == small.relative_hypervolume
    assert small.reference == (1.1,) * 6


def test_relative_hypervolume_without_any_volume_is_not_a_number():
    assert np.isnan(relative_hypervolume([[2.0, 2.0]], [[1.5, 1.5]]))
    assert np.isnan(set_indicators([[[2.0, 2.0]]])[0].relative_hypervolume)


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(ConfigurationError, match="pooled front is empty"):
        igd_plus(cloud(3, 2), np.empty((0, 2)))
    with pytest.raises(ConfigurationError, match="at least one set"):
        pooled_front([])
    with pytest.raises(ConfigurationError, match=r"set 2 must have shape \(P, 2\), got \(3, 3\)"):
        pooled_front([cloud(3, 2), cloud(3, 3)])
    with pytest.raises(ConfigurationError, match=r"\(P, 3\), got \(3, 2\)"):
        indicators.additive_epsilon(cloud(3, 2), cloud(3, 3))
