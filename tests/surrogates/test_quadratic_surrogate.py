"""The quadratic surrogate: exact where the data determines it, honest where it does not."""

import numpy as np
import pytest

from moofusion.surrogates import MergeSurrogate, QuadraticSurrogate, Target, n_parameters
from moofusion.tasks import Metric
from moofusion.tasks.base import ACCURACY


def quadratic(n, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n))
    return A + A.T, rng.normal(size=n), float(rng.normal())


def values(X, A, b, e):
    return e + X @ b + 0.5 * np.einsum("pi,ij,pj->p", X, A, X)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_quadratic_is_recovered_from_as_many_points_as_parameters(n, rng):
    A, b, e = quadratic(n)
    X = rng.uniform(-0.5, 1.5, (n_parameters(n), n))
    found = QuadraticSurrogate().fit(X, values(X, A, b, e))
    np.testing.assert_allclose(found.A, A, atol=1e-6)
    np.testing.assert_allclose(found.b, b, atol=1e-6)
    assert found.e == pytest.approx(e, abs=1e-6)
    assert found.note == ""
    fresh = rng.uniform(-1, 2, (50, n))
    np.testing.assert_allclose(found.predict(fresh)[0], values(fresh, A, b, e), atol=1e-6)
    np.testing.assert_allclose(found.gradient(fresh), fresh @ A + b, atol=1e-6)


@pytest.mark.parametrize(("n", "points"), [(2, 3), (3, 4), (4, 5), (6, 7)])
def test_gradients_need_far_fewer_points(n, points, rng):
    A, b, e = quadratic(n, seed=1)
    X = rng.uniform(0, 1, (points, n))
    assert len(X) < n_parameters(n)
    found = QuadraticSurrogate().fit(X, values(X, A, b, e), gradients=X @ A + b)
    np.testing.assert_allclose(found.A, A, atol=1e-5)
    np.testing.assert_allclose(found.b, b, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 8])
def test_gradients_at_fewer_than_n_plus_one_points_leave_curvature_open(n, rng):
    # Gradients at m points tell A along their m - 1 differences; values add the constant alone,
    # since f(y) - f(x) = (f'(x) + f'(y)).(y - x) / 2. The count of equations, m (n + 1), misleads.
    for m in range(1, n + 2):
        X = rng.uniform(0, 1, (m, n))
        found = QuadraticSurrogate().fit(X, X.sum(axis=1), gradients=np.ones((m, n)))
        free = n - m + 1
        assert found.rank == n_parameters(n) - free * (free + 1) // 2
        assert (found.note == "") == (m == n + 1)


def test_leave_one_out_is_what_refits_give(rng):
    X = rng.uniform(0, 1, (14, 2))
    z = values(X, *quadratic(2)) + 0.1 * rng.normal(size=14)
    fixed = {"ridge": 1e-3, "center": np.full(2, 0.5), "scale": np.full(2, 0.5)}
    found = QuadraticSurrogate(**fixed).fit(X, z)
    for i in range(len(X)):
        rest = np.arange(len(X)) != i
        alone = QuadraticSurrogate(**fixed).fit(X[rest], z[rest])
        # The ridge is relative to the columns, which change a little when a row is left out.
        assert found.loo.predicted[i] == pytest.approx(alone.predict(X[[i]])[0][0], abs=2e-3)
    np.testing.assert_array_equal(found.loo.observed, z)


def test_too_few_points_are_said(rng):
    X = rng.uniform(0, 1, (5, 3))
    found = QuadraticSurrogate().fit(X, X.sum(axis=1))
    assert "not determined by the data" in found.note
    assert np.isfinite(found.predict(X)[0]).all()


def accuracies(X, A, b, e):
    return 1 / (1 + np.exp(-values(X, A, b, e)))


def test_bounded_metrics_do_not_saturate_with_three_experts(rng):
    # The public code starts its sigmoid at ones, is saturated there, and explains nothing.
    truth = (-np.diag([6.0, 5.0, 4.0]), np.array([5.0, 3.0, 2.0]), -1.0)
    X = rng.uniform(0, 1, (20, 3))
    hits = rng.binomial(1000, accuracies(X, *truth)) / 1000
    found = MergeSurrogate.fit(X, hits[:, None], [Target.of("a", ACCURACY, samples=1000)])
    fresh = rng.uniform(0, 1, (200, 3))
    predicted = 1 - found.predict(fresh)[0][:, 0]
    real = accuracies(fresh, *truth)
    assert 1 - np.mean((predicted - real) ** 2) / np.var(real) > 0.9
    assert found.table().shape[0] == 1


def test_ten_thousand_candidates_are_one_call_and_agree_with_single_ones(rng):
    X = rng.uniform(0, 1, (30, 2))
    Y = np.stack([X[:, 0] ** 2, X.sum(axis=1)], axis=1)
    found = MergeSurrogate.fit(X, Y, [Target.of(n, Metric("y", "min")) for n in "ab"])
    many = rng.uniform(0, 1, (10_000, 2))
    F, std = found.predict(many)
    assert F.shape == std.shape == (10_000, 2)
    for i in (0, 17, 9_999):
        np.testing.assert_allclose(found.predict(many[[i]])[0][0], F[i], atol=1e-12)


@pytest.mark.parametrize("kind", ["quadratic", "gp"])
def test_a_surrogate_read_back_predicts_the_same(kind, rng, tmp_path):
    if kind == "gp":
        pytest.importorskip("sklearn", reason="the extra [gp] is not installed")
    X = rng.uniform(0, 1, (15, 2))
    Y = np.stack([np.sin(X[:, 0]), X.sum(axis=1)], axis=1)
    targets = [Target.of(n, Metric("y", "min")) for n in "ab"]
    found = MergeSurrogate.fit(X, Y, targets, kind=kind)
    again = MergeSurrogate.load(found.save(tmp_path / "s.npz"))
    fresh = rng.uniform(0, 1, (40, 2))
    for one, other in zip(found.predict(fresh), again.predict(fresh), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)
