"""The Gaussian-process surrogate: smooth data, equal runs, exact leave-one-out, clear errors."""

import importlib.util

import numpy as np
import pytest

from moofusion.errors import ConfigurationError
from moofusion.surrogates import GaussianProcessSurrogate


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "sklearn" else real(name, *rest),
    )
    with pytest.raises(ConfigurationError, match=r"scikit-learn.*pip install 'moofusion\[gp\]'"):
        GaussianProcessSurrogate()


class TestFitted:
    @pytest.fixture(autouse=True)
    def _needs_sklearn(self):
        pytest.importorskip("sklearn", reason="the extra [gp] is not installed")

    @staticmethod
    def wave(X):
        return np.sin(4 * X[:, 0]) + np.cos(3 * X[:, 1])

    def test_smooth_data_that_no_quadratic_follows(self, rng):
        X, fresh = rng.uniform(size=(40, 2)), rng.uniform(0.1, 0.9, (100, 2))
        found = GaussianProcessSurrogate().fit(X, self.wave(X))
        np.testing.assert_allclose(found.predict(X)[0], self.wave(X), atol=0.01)
        error = found.predict(fresh)[0] - self.wave(fresh)
        assert np.sqrt(np.mean(error**2)) < 0.02
        assert found.loo.r2 > 0.98

    def test_equal_data_give_equal_models(self, rng):
        X, fresh = rng.uniform(size=(12, 2)), rng.uniform(size=(20, 2))
        one, other = (GaussianProcessSurrogate().fit(X, self.wave(X)) for _ in range(2))
        for a, b in zip(one.predict(fresh), other.predict(fresh), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_uncertainty_grows_away_from_the_points(self, rng):
        X = rng.uniform(size=(15, 2))
        found = GaussianProcessSurrogate().fit(X, self.wave(X))
        assert found.predict([[4.0, 4.0]])[1][0] > 5 * found.predict(X)[1].max()

    def test_leave_one_out_is_what_refits_with_these_hyperparameters_give(self, rng):
        from sklearn.gaussian_process import GaussianProcessRegressor

        X = rng.uniform(size=(14, 2))
        z = self.wave(X) + 0.1 * rng.normal(size=14)
        noise = np.full(14, 0.01)
        found = GaussianProcessSurrogate().fit(X, z, noise=noise)
        low, width, unit = X.min(axis=0), np.ptp(X, axis=0), z.std()
        kernel = found._model.kernel_
        for i in range(14):
            rest = np.arange(14) != i
            alone = GaussianProcessRegressor(
                kernel, alpha=noise[rest] / unit**2 + 1e-10, optimizer=None
            ).fit((X[rest] - low) / width, (z[rest] - z.mean()) / unit)
            expected = z.mean() + unit * alone.predict((X[[i]] - low) / width)[0]
            assert found.loo.predicted[i] == pytest.approx(expected, abs=1e-8)

    def test_gradients_are_refused(self, rng):
        X = rng.uniform(size=(6, 2))
        with pytest.raises(ConfigurationError, match="not gradients"):
            GaussianProcessSurrogate().fit(X, X[:, 0], gradients=np.ones((6, 2)))
        found = GaussianProcessSurrogate().fit(X, X[:, 0])
        with pytest.raises(ConfigurationError, match="gp surrogate has no gradient"):
            found.gradient(X)
