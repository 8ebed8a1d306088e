"""Surrogates of a whole problem: what they show, their files, and where they were sampled."""

import json

import numpy as np
import pytest

from moofusion.errors import ConfigurationError, EvaluationWarning, RunError, UnknownNameError
from moofusion.surrogates import MergeSurrogate, QuadraticSurrogate, Support, Target, n_parameters
from moofusion.tasks import Metric
from moofusion.tasks.base import ACCURACY

TARGETS = [Target.of("a", ACCURACY, samples=400), Target.of("b", Metric("loss", "min"))]


def data(rng, points=25):
    X = rng.uniform(size=(points, 2))
    return X, np.stack([0.9 - 0.5 * (X[:, 0] - 0.4) ** 2, np.exp(X.sum(axis=1))], axis=1)


def fitted(rng, **options):
    return MergeSurrogate.fit(*data(rng), TARGETS, **options)


@pytest.mark.parametrize("points", [3, 5, 8, 40])
def test_sampled_points_are_inside_and_far_ones_outside(points, rng):
    X = rng.uniform(size=(points, 2))
    support = Support(X)
    assert (support.violation(X) <= 0).all()
    assert support.violation(X.mean(axis=0, keepdims=True))[0] <= 0
    assert (support.violation(np.array([[3.0, 3.0], [-2.0, 0.5], [0.5, 9.0]])) > 0).all()


def test_a_corner_of_the_box_that_was_not_sampled_is_outside(rng):
    # Along a diagonal band the empty corners are inside the box, but extrapolation.
    line = np.linspace(0, 1, 30)
    X = np.stack([line, line + 0.05 * rng.normal(size=30)], axis=1)
    support = Support(X)
    assert len(X) > n_parameters(2)
    corner = np.array([[X[:, 0].max(), X[:, 1].min()]])
    assert support.violation(corner)[0] > 0


def test_just_outside_the_box_is_outside_whatever_the_leverage(rng):
    X = rng.uniform(size=(40, 2))
    support = Support(X, slack=10.0)
    beyond = np.array([[X[:, 0].max() + 0.01, 0.5], [0.5, X[:, 1].min() - 0.01]])
    assert (support.leverage(beyond) < support.limit).all()
    assert (support.violation(beyond) > 0).all()


def test_metrics_and_objectives_have_the_orientation_of_the_problem(rng):
    X, values = data(rng)
    found = MergeSurrogate.fit(X, values, TARGETS)
    F = found.predict(X)[0]
    np.testing.assert_allclose(found.metrics(X), values, rtol=0.02)
    np.testing.assert_allclose(F, np.stack([1 - values[:, 0], values[:, 1]], 1), atol=0.02)


def test_optimism_makes_every_objective_better(rng):
    X, values = data(rng)
    noisy = values * np.exp(0.02 * rng.normal(size=values.shape))
    found = MergeSurrogate.fit(X, noisy, TARGETS)
    plain, std = found.predict(X)
    assert (std > 0).all()
    assert (found.predict(X, optimism=2.0)[0] < plain).all()


def test_the_table_and_its_html_say_how_good_each_fit_is(rng):
    found = fitted(rng)
    table = found.table()
    assert list(table.index) == ["a", "b"]
    assert list(table["link"]) == ["logit", "log"]
    assert (table["points"] == 25).all()
    assert table.loc["b", "R2 (leave one out)"] == pytest.approx(found.models[1].loo.r2)
    assert table.loc["a", "noise floor (link scale)"] > 0
    assert np.isnan(table.loc["b", "noise floor (link scale)"])
    html = found._repr_html_()
    assert "<table" in html
    assert "logit" in html
    assert "25 points, 2 variables" in repr(found)
    assert f"b {found.models[1].loo.r2:.2f}" in repr(found)


def test_poor_fits_are_warned_of_by_name(rng):
    X, values = data(rng)
    values[:, 1] = np.exp(rng.normal(size=25))
    with pytest.warns(EvaluationWarning, match=r"b \(.*surrogate='gp'"):
        MergeSurrogate.fit(X, values, TARGETS, warn=True)
    assert not fitted(rng, warn=True).warn_if_poor()


def test_all_of_it_survives_a_file(rng, tmp_path):
    X, values = data(rng)
    prior = QuadraticSurrogate().fit(X, X[:, 0])
    found = MergeSurrogate.fit(
        X,
        values,
        TARGETS,
        priors=[prior, None],
        constraints=X[:, :1] - 0.5,
        xl=np.full(2, -1.0),
        xu=np.full(2, 2.0),
    )
    again = MergeSurrogate.load(found.save(tmp_path / "s.npz"))
    fresh = rng.uniform(size=(50, 2))
    for one, other in zip(found.predict(fresh), again.predict(fresh), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.gradients(fresh), again.gradients(fresh))
    np.testing.assert_array_equal(found.constraints(fresh), again.constraints(fresh))
    np.testing.assert_allclose(again.constraints(fresh)[:, 0], fresh[:, 0] - 0.5, atol=1e-6)
    np.testing.assert_array_equal(
        found.support.violation(3 * fresh), again.support.violation(3 * fresh)
    )
    assert repr(again) == repr(found)
    for one, other in zip(again.targets, found.targets, strict=True):
        assert (one.name, one.metric) == (other.name, other.metric)
        assert one.link.settings() == other.link.settings()
    np.testing.assert_array_equal([again.xl, again.xu], [found.xl, found.xu])


@pytest.mark.parametrize("content", ["empty", "text", "cut short", "another archive", "missing"])
def test_what_is_not_a_surrogate_file_is_refused(content, rng, tmp_path):
    file = tmp_path / "s.npz"
    if content == "another archive":
        np.savez(file, x=np.ones(3))
    elif content != "missing":
        whole = fitted(rng).save(file).read_bytes()
        parts = {"empty": b"", "text": b"hello", "cut short": whole[: len(whole) // 2]}
        file.write_bytes(parts[content])
    with pytest.raises(RunError, match="not a surrogate file"):
        MergeSurrogate.load(file)


def test_a_newer_format_is_refused_by_number(rng, tmp_path):
    file = fitted(rng).save(tmp_path / "s.npz")
    with np.load(file) as stored:
        arrays = dict(stored)
    meta = json.loads(str(arrays.pop("meta"))) | {"format": 99}
    np.savez(file, meta=np.array(json.dumps(meta)), **arrays)
    with pytest.raises(RunError, match="format 99, this version reads 1"):
        MergeSurrogate.load(file)


def test_wrong_names_and_shapes_are_refused(rng):
    X, values = data(rng)
    with pytest.raises(UnknownNameError, match="surrogate 'cubic'"):
        MergeSurrogate.fit(X, values, TARGETS, kind="cubic")
    with pytest.raises(ConfigurationError, match=r"shape \(25, 2\), got \(25, 1\)"):
        MergeSurrogate.fit(X, values[:, :1], TARGETS)


def test_many_candidates_at_once_are_each_one_alone(rng):
    found = fitted(rng)
    many = rng.uniform(size=(10_000, 2))
    together = found.predict(many, optimism=1.0)
    for i in rng.integers(0, 10_000, 100):
        for one, all_of_them in zip(found.predict(many[i], optimism=1.0), together, strict=True):
            np.testing.assert_allclose(one[0], all_of_them[i], rtol=1e-9, atol=1e-12)
