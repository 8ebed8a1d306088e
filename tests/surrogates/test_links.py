"""Links: there and back, their slopes, their bounds, and the noise they report."""

import numpy as np
import pytest

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.surrogates import Identity, Log, Logit, Softplus, link_for
from moofusion.surrogates.links import link_from
from moofusion.tasks import Metric
from moofusion.tasks.base import ACCURACY, LOSS

LINKS = {
    "identity": (Identity(), np.array([-3.0, 0.2, 7.0])),
    "log": (Log(), np.array([0.01, 0.5, 9.0])),
    "softplus": (Softplus(), np.array([0.01, 0.5, 9.0])),
    "logit": (Logit(samples=80), np.array([0.02, 0.5, 0.97])),
    "wide logit": (Logit(-2.0, 3.0, samples=30), np.array([-1.9, 0.1, 2.7])),
}
every_link = pytest.mark.parametrize(("link", "y"), LINKS.values(), ids=LINKS)


@every_link
def test_there_and_back(link, y):
    z = link.forward(y)
    np.testing.assert_allclose(link.inverse(z), y, rtol=1e-10)
    again = link_from(link.settings())
    np.testing.assert_array_equal(again.forward(y), z)


@every_link
def test_slopes_are_derivatives(link, y):
    h, z = 1e-6, link.forward(y)
    there = (link.forward(y + h) - link.forward(y - h)) / (2 * h)
    back = (link.inverse(z + h) - link.inverse(z - h)) / (2 * h)
    np.testing.assert_allclose(link.slope(y), there, rtol=1e-5)
    np.testing.assert_allclose(link.inverse_slope(z), back, rtol=1e-5)


def test_the_bounds_have_finite_log_odds():
    link = Logit(samples=50)
    z = link.forward(np.array([0.0, 1.0]))
    np.testing.assert_allclose(z, [-np.log(101), np.log(101)])
    assert np.isfinite(link.slope(np.array([0.0, 1.0]))).all()
    assert np.isfinite(link.noise(np.array([0.0, 1.0]))).all()
    np.testing.assert_allclose(link.inverse(z), [0, 1], atol=1e-12)
    np.testing.assert_array_equal(link.inverse(np.array([-900.0, 900.0])), [0, 1])


@pytest.mark.parametrize("link", [Log(), Softplus()])
def test_zero_is_finite_on_positive_scales(link):
    assert np.isfinite(link.forward(np.array([0.0]))).all()
    assert np.isfinite(link.slope(np.array([0.0]))).all()


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_the_noise_is_that_of_binomial_samples(p, rng):
    link = Logit(samples=500)
    z = link.forward(rng.binomial(500, p, size=20_000) / 500)
    assert z.var() == pytest.approx(float(link.noise(np.array(p))), rel=0.06)


def test_the_metric_chooses_its_link():
    assert link_for(ACCURACY, samples=70) == Logit(0.0, 1.0, samples=70)
    assert isinstance(link_for(LOSS), Log)
    assert isinstance(link_for(Metric("y", "min")), Identity)
    assert isinstance(link_for(Metric("y", "max")), Identity)


def test_impossible_links_are_refused():
    with pytest.raises(ConfigurationError, match="lower < upper"):
        Logit(1.0, 0.0)
    with pytest.raises(ConfigurationError, match="one sample"):
        Logit(samples=0)
    with pytest.raises(UnknownNameError, match="link 'cubit'"):
        link_from({"name": "cubit"})
