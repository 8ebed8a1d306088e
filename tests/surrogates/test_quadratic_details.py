"""The quadratic surrogate on link scales, its exact leave-one-out, and its limits."""

import numpy as np
import pytest
from scipy.special import expit

from moofusion.errors import ConfigurationError
from moofusion.surrogates import (
    Logit,
    MergeSurrogate,
    PriorSurrogate,
    QuadraticSurrogate,
    Target,
    n_parameters,
)
from moofusion.surrogates.features import quadratic_features, quadratic_slopes
from moofusion.tasks import Metric


def quadratic(n, rng):
    A = rng.normal(size=(n, n))
    A, b, e = A + A.T, rng.normal(size=n), float(rng.normal())
    return (A, b, e), lambda X: e + X @ b + np.einsum("pi,ij,pj->p", X, A, X) / 2


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_recovered_through_the_logit(n, rng):
    (A, b, e), z = quadratic(n, rng)
    X = rng.uniform(0, 1, (n_parameters(n), n))
    # So many samples that the continuity correction vanishes.
    link = Logit(samples=10**12)
    found = QuadraticSurrogate().fit(X, link.forward(expit(z(X))))
    np.testing.assert_allclose(found.A, A, atol=1e-6)
    np.testing.assert_allclose(found.b, b, atol=1e-6)
    assert found.e == pytest.approx(e, abs=1e-6)


def test_a_metric_given_with_gradients_is_recovered_on_its_link(rng):
    (A, b, e), z = quadratic(3, rng)
    X = rng.uniform(0, 1, (4, 3))
    loss = np.exp(z(X))
    slopes = loss[:, None] * (X @ A + b)
    found = MergeSurrogate.fit(
        X, loss[:, None], [Target.of("a", Metric("loss", "min"))], gradients=slopes[:, None]
    )
    got = found.coefficients()["a"]
    np.testing.assert_allclose(got[0], A, atol=1e-6)
    np.testing.assert_allclose(got[1], b, atol=1e-6)
    assert got[2] == pytest.approx(e, abs=1e-6)


def direct(X, z, slopes, penalty):
    """Normal equations of values and gradients with a penalty on all but the constant."""
    rows, target = quadratic_features(X), z
    if slopes is not None:
        rows = np.vstack([rows, quadratic_slopes(X).reshape(-1, rows.shape[1])])
        target = np.concatenate([z, slopes.ravel()])
    free = np.eye(rows.shape[1])
    free[0, 0] = 0
    beta = np.linalg.solve(rows.T @ rows + penalty * free, rows.T @ target)
    return beta, rows


@pytest.mark.parametrize("with_gradients", [False, True])
def test_leave_one_out_is_a_refit_with_the_same_penalty(with_gradients, rng):
    # The ridge is relative to the mean squared column, so the twin is given the absolute one.
    _, f = quadratic(2, rng)
    X = rng.uniform(-1, 1, (12, 2))
    z = f(X) + 0.2 * rng.normal(size=12)
    slopes = rng.normal(size=(12, 2)) if with_gradients else None
    options = {"ridge": 0.02, "center": np.zeros(2), "scale": np.ones(2)}
    found = QuadraticSurrogate(**options).fit(X, z, gradients=slopes)
    _, rows = direct(X, z, slopes, 0.0)
    penalty = 0.02 * (rows[:, 1:] ** 2).sum(axis=0).mean()
    for i in range(12):
        rest = np.arange(12) != i
        beta, _ = direct(X[rest], z[rest], None if slopes is None else slopes[rest], penalty)
        expected = quadratic_features(X[[i]])[0] @ beta
        assert found.loo.predicted[i] == pytest.approx(expected, abs=1e-9)


def test_below_the_number_of_parameters_the_note_says_so(rng):
    n, p = 3, n_parameters(3)
    X = rng.uniform(0, 1, (p, n))
    few = QuadraticSurrogate().fit(X[:-1], X[:-1].sum(axis=1))
    assert f"rank {p - 1} for {p} parameters" in few.note
    assert "minimum norm" in few.note
    assert QuadraticSurrogate().fit(X, X.sum(axis=1)).note == ""


def test_without_a_ridge_an_open_fit_has_the_minimum_norm(rng):
    X = rng.uniform(-1, 1, (4, 2))
    z = rng.normal(size=4)
    found = QuadraticSurrogate(ridge=0.0, center=np.zeros(2), scale=np.ones(2)).fit(X, z)
    # The constant is free: the least norm of the others that reproduces the differences.
    rows = quadratic_features(X)[:, 1:]
    expected = np.linalg.pinv(rows - rows.mean(axis=0)) @ (z - z.mean())
    np.testing.assert_allclose(found.beta[1:], expected, atol=1e-5)


def test_too_many_parameters_are_an_error_that_helps():
    X = np.zeros((2, 80))
    with pytest.raises(ConfigurationError, match=r"80 variables has 3321 parameters.*fewer var"):
        QuadraticSurrogate().fit(X, np.zeros(2))


@pytest.mark.parametrize("option", [{"ridge": -1.0}, {"gradient_weight": 0.0}])
def test_bad_options_are_refused(option):
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        QuadraticSurrogate(**option)


def test_data_that_does_not_fit_together_is_refused(rng):
    X = rng.uniform(size=(6, 2))
    for extra in ({"noise": np.ones(5)}, {"gradients": np.ones((6, 3))}):
        with pytest.raises(ConfigurationError, match=f"{next(iter(extra))} must have shape"):
            QuadraticSurrogate().fit(X, np.zeros(6), **extra)
    with pytest.raises(ConfigurationError, match="no finite value"):
        QuadraticSurrogate().fit(X, np.full(6, np.nan))
    with pytest.raises(ConfigurationError, match="expected decision vectors of 2 variables"):
        QuadraticSurrogate().fit(X, X[:, 0]).predict(np.zeros((1, 3)))


def test_a_failed_evaluation_is_left_out(rng):
    _, f = quadratic(2, rng)
    X = rng.uniform(size=(9, 2))
    z = f(X)
    z[4] = np.nan
    found = QuadraticSurrogate().fit(X, z)
    assert found.n_points == 8
    np.testing.assert_allclose(found.predict(X)[0], f(X), atol=1e-6)


def test_a_prior_turns_three_values_into_a_good_model(rng):
    _, f = quadratic(3, rng)
    X = rng.uniform(size=(20, 3))
    prior = QuadraticSurrogate().fit(X, f(X))
    few, fresh = X[:5], rng.uniform(size=(50, 3))
    found = PriorSurrogate(prior).fit(few, 2 - 3 * f(few))
    np.testing.assert_allclose(found.predict(fresh)[0], 2 - 3 * f(fresh), atol=1e-5)
    alone = QuadraticSurrogate().fit(few, 2 - 3 * f(few)).predict(fresh)[0]
    assert np.abs(alone - (2 - 3 * f(fresh))).max() > 0.01
    step = np.array([1e-5, 0, 0])
    slope = (found.predict(fresh + step)[0] - found.predict(fresh - step)[0]) / 2e-5
    np.testing.assert_allclose(found.gradient(fresh)[:, 0], slope, atol=1e-5)
