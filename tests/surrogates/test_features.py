"""Features of quadratics: against finite differences and direct evaluation."""

import numpy as np
import pytest

from moofusion.surrogates.features import (
    n_parameters,
    quadratic_features,
    quadratic_slopes,
    unpacked,
)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_slopes_are_the_derivatives_of_the_features(n, rng):
    U, h = rng.normal(size=(4, n)), 1e-5
    slopes = quadratic_slopes(U)
    assert slopes.shape == (4, n, n_parameters(n))
    for axis, step in enumerate(h * np.eye(n)):
        measured = (quadratic_features(U + step) - quadratic_features(U - step)) / (2 * h)
        np.testing.assert_allclose(slopes[:, axis], measured, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_unpacked_coefficients_are_the_same_function(n, rng):
    beta = rng.normal(size=n_parameters(n))
    center, scale = rng.normal(size=n), rng.uniform(0.2, 3, n)
    A, b, e = unpacked(beta, center, scale)
    np.testing.assert_array_equal(A, A.T)
    for c in rng.normal(size=(5, n)):
        features = quadratic_features((c - center)[None] / scale)[0]
        assert e + b @ c + c @ A @ c / 2 == pytest.approx(features @ beta, abs=1e-9)
