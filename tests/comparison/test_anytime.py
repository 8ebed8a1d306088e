"""Anytime hypervolume curves and their bands over seeds."""

from __future__ import annotations

import moocore
import numpy as np
import pytest

from moofusion.comparison import anytime, quality
from moofusion.comparison.anytime import anytime_hypervolume
from moofusion.comparison.curves import align, band, checkpoints
from moofusion.comparison.quality import hypervolume, hypervolume_backend
from moofusion.errors import ConfigurationError


def log(n, m, seed=0):
    """Objectives of a run that gets better with time."""
    rng = np.random.default_rng(seed)
    x = np.abs(rng.normal(size=(n, m)))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return 1 - x + rng.exponential(0.3, size=(n, 1)) * np.linspace(1.5, 0.1, n)[:, None]


@pytest.fixture
def work(monkeypatch):
    """Counts calls of the two expensive functions."""
    counts = {"volumes": 0, "sweeps": 0}
    volume, sweep = anytime.volume_within, moocore.is_nondominated

    def counted_volume(*args):
        counts["volumes"] += 1
        return volume(*args)

    def counted_sweep(points):
        counts["sweeps"] += 1
        return sweep(points)

    monkeypatch.setattr(anytime, "volume_within", counted_volume)
    monkeypatch.setattr(moocore, "is_nondominated", counted_sweep)
    return counts


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("digits", [1, 9])
def test_a_curve_is_the_hypervolume_of_every_prefix(m, digits):
    F = log(150, m).round(digits)
    (curve,) = anytime_hypervolume([F])
    expected = [hypervolume(F[: i + 1]) for i in range(len(F))]
    assert curve.y == pytest.approx(expected, rel=1e-13)
    assert curve.y[-1] == hypervolume(F)
    assert np.array_equal(curve.x, np.arange(1, 151))
    assert (np.diff(curve.y) >= 0).all()


def test_points_beyond_the_reference_add_nothing():
    (curve,) = anytime_hypervolume([[[2, 0], [0.5, 0.5], [0.2, 1.0], [0, 0]]], reference=1.0)
    assert curve.y == pytest.approx([0, 0.25, 0.25, 1])
    assert curve.reference == (1.0, 1.0)


def test_a_thinned_curve_is_exact_where_it_is_drawn_and_late_elsewhere():
    F = log(1500, 3)
    (full,) = anytime_hypervolume([F], limit=1500)
    (thin,) = anytime_hypervolume([F], limit=40)
    assert len(thin.x) <= 40 < len(full.x)
    assert np.array_equal(thin.y, full.at(thin.x))
    assert (thin.at(full.x) <= full.y).all()
    assert thin.y[-1] == full.y[-1]


@pytest.mark.parametrize(("n", "limit"), [(1, 200), (200, 200), (201, 200), (10**5, 200), (7, 2)])
def test_checkpoints_hold_both_ends_and_stay_within_the_limit(n, limit):
    found = checkpoints(n, limit)
    assert found[-1] == n
    assert found[0] == 1
    assert len(found) == n if n <= limit else limit / 2 <= len(found) <= limit
    assert (np.diff(found) > 0).all()


def test_failed_evaluations_cost_but_do_not_count():
    F = log(60, 2)
    usable = np.random.default_rng(1).random(60) < 0.5
    failed = np.where(usable[:, None], F, np.nan)
    (curve,) = anytime_hypervolume([failed], usable=[usable])
    expected = [hypervolume(F[: i + 1][usable[: i + 1]]) for i in range(60)]
    assert curve.y == pytest.approx(expected, rel=1e-13)
    (nothing,) = anytime_hypervolume([F], usable=[np.zeros(60, bool)])
    assert not nothing.y.any()


def test_runs_do_not_influence_each_other():
    runs = [log(n, 3, seed) for seed, n in enumerate((50, 80, 30))]
    together = anytime_hypervolume(runs)
    alone = [anytime_hypervolume([F])[0] for F in runs]
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a.y, b.y)


def test_work_grows_with_what_enters_the_archive_not_with_the_log(work):
    front = log(30, 3)
    stuck = np.vstack([front, np.repeat(front + 0.1, 100, axis=0)])
    anytime_hypervolume([front])
    once = dict(work)
    anytime_hypervolume([stuck], limit=len(stuck))
    assert once["volumes"] <= 30
    assert once["sweeps"] <= once["volumes"] + 1
    assert {key: work[key] - once[key] for key in work} == once


def test_work_is_bounded_by_the_checkpoints(work):
    anytime_hypervolume([log(20_000, 4)], limit=50)
    assert work["volumes"] <= 50
    assert work["sweeps"] <= 51


def test_no_point_is_swept_again_after_it_was_dominated(monkeypatch):
    swept = []
    sweep = moocore.is_nondominated

    def counted(points):
        swept.append(len(points))
        return sweep(points)

    monkeypatch.setattr(moocore, "is_nondominated", counted)
    n = 1000
    anytime_hypervolume([np.linspace([1, 1], [0, 0], n)], limit=n)
    assert swept[0] == n
    assert max(swept[1:]) == 2


def test_a_curve_never_mixes_backends(monkeypatch):
    monkeypatch.setattr(quality, "_has_pygmo", lambda: False)
    large, small = log(700, 6), log(20, 6, 1)
    (alone,) = anytime_hypervolume([small])
    assert alone.backend == "exact"
    first, second = anytime_hypervolume([large, small], limit=12)
    assert hypervolume_backend(6, 20) == "exact"
    assert first.backend == second.backend == "approximate"
    assert second.y[0] == hypervolume(small[:1], backend="approximate", purpose="curve")
    assert first.y[-1] == hypervolume(large, backend="approximate", purpose="curve")
    assert (np.diff(first.y) >= 0).all()


def test_other_cost_axes_reuse_the_volumes(work):
    F = log(500, 2)
    (curve,) = anytime_hypervolume([F], limit=60)
    before = dict(work)
    cost = np.random.default_rng(0).uniform(0, 3, 500)
    seconds = curve.over(cost, "seconds")
    assert work == before
    assert seconds.axis == "seconds"
    assert np.array_equal(seconds.y, curve.y)
    assert seconds.x[-1] == pytest.approx(cost.sum())
    assert np.array_equal(seconds.x, np.cumsum(cost)[curve.evaluations - 1])


def test_steps_hold_and_nothing_is_extrapolated():
    (curve,) = anytime_hypervolume([[[0.5, 0.5], [0.0, 0.0]]], reference=1.0)
    curve = curve.over([2, 2], "cost units")
    assert curve.at([0, 1.99, 2, 3.99, 4, 1000]) == pytest.approx([0, 0, 0.25, 0.25, 1, 1])


def test_evaluations_that_cost_nothing_share_a_place():
    (curve,) = anytime_hypervolume([[[0.5, 0.5], [0.0, 0.0]]], reference=1.0)
    assert curve.over([2, 0], "cost units").at([2]) == [1.0]


def test_a_band_holds_median_and_quartiles_of_the_runs():
    runs = [log(n, 2, seed) for seed, n in enumerate((40, 60, 60, 60, 60))]
    curves = anytime_hypervolume(runs)
    found = band(curves)
    values = np.array([[hypervolume(F[:k]) for k in range(1, 61)] for F in runs])
    assert found.median == pytest.approx(np.median(values, axis=0))
    assert found.lower == pytest.approx(np.percentile(values, 25, axis=0))
    assert found.upper == pytest.approx(np.percentile(values, 75, axis=0))
    assert found.n_runs == 5
    assert found.running.tolist() == [5] * 40 + [4] * 20
    other = band(curves[::-1])
    assert np.array_equal(found.median, other.median)


def test_runs_with_their_own_costs_share_one_grid():
    runs = [log(300, 2, seed) for seed in range(3)]
    costs = [np.random.default_rng(seed).uniform(1, 2, 300) for seed in range(3)]
    curves = anytime_hypervolume(runs)
    timed = [curve.over(c, "seconds") for curve, c in zip(curves, costs, strict=True)]
    grid, values = align(timed, limit=50)
    assert len(grid) <= 50
    assert grid[-1] == max(curve.x[-1] for curve in timed)
    assert values.shape == (3, len(grid))
    assert (np.diff(values, axis=1) >= 0).all()
    chosen, _ = align(timed, x=[0, 10, 20])
    assert chosen.tolist() == [0, 10, 20]


def test_what_cannot_be_compared_is_refused():
    (a,), (b,) = anytime_hypervolume([log(5, 2)]), anytime_hypervolume([log(5, 2)], reference=2.0)
    with pytest.raises(ConfigurationError, match="one reference"):
        band([a, b])
    with pytest.raises(ConfigurationError, match="one axis, got evaluations, seconds"):
        band([a, a.over(np.ones(5), "seconds")])
    with pytest.raises(ConfigurationError, match="at least one curve"):
        align([])


@pytest.mark.parametrize("cost", [[1, 2], [1, 1, 1, 1, -1], [1, 1, 1, 1, np.nan], np.ones((5, 1))])
def test_wrong_costs_are_refused(cost):
    (curve,) = anytime_hypervolume([log(5, 2)])
    with pytest.raises(ConfigurationError, match="costs"):
        curve.over(cost, "cost units")


@pytest.mark.parametrize(
    ("runs", "options", "match"),
    [
        ([], {}, "at least one run"),
        ([np.empty((0, 2))], {}, "run 1 holds no evaluation"),
        ([[[0, np.nan]]], {}, "run 1 hold 1 NaN"),
        ([log(3, 2), log(3, 3)], {}, "run 2 must have shape"),
        ([log(3, 2)], {"usable": [[True]]}, "one boolean mask per run"),
        ([log(3, 2)], {"usable": [[1, 0, 1]]}, "one boolean mask per run"),
        ([[[0, np.nan], [np.nan, 0]]], {"usable": [[True, False]]}, "run 1 hold 1 NaN"),
        ([[0.0, 1.0]], {"usable": [[True, False]]}, "must have shape"),
        ([log(3, 2)], {"reference": [1, 1, 1]}, "2 of them"),
        ([log(3, 2)], {"limit": 1}, "checkpoints"),
    ],
)
def test_wrong_logs_are_refused(runs, options, match):
    with pytest.raises(ConfigurationError, match=match):
        anytime_hypervolume(runs, **options)


def test_arguments_stay_unchanged():
    F, usable = log(50, 3), np.ones(50, bool)
    for array in (F, usable):
        array.setflags(write=False)
    before = F.copy()
    anytime_hypervolume([F], usable=[usable])
    assert np.array_equal(F, before)
