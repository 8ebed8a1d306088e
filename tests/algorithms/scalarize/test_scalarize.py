"""From losses, inner products of gradients and a preference to weights."""

import numpy as np
import pytest
from scipy.optimize import minimize

from moofusion.algorithms.scalarize import (
    SCALARIZERS,
    epo,
    get_scalarizer,
    mgda,
    min_norm,
    non_uniformity,
    smooth_tchebycheff,
    tchebycheff,
)
from moofusion.algorithms.scalarize.jd import JD_WEIGHTINGS
from moofusion.errors import ConfigurationError, UnknownNameError


def _toy(x):
    """Two losses in conflict: Mahapatra and Rajan's example, and its Jacobian."""
    shift = np.full(len(x), 1 / np.sqrt(len(x)))
    parts = [np.exp(-np.sum((x - sign * shift) ** 2)) for sign in (1, -1)]
    losses = np.array([1 - part for part in parts])
    J = np.array([2 * (x - s * shift) * p for s, p in zip((1, -1), parts, strict=True)])
    return losses, J


def _descend(weigh, r, *, steps=400, lr=0.1, start=(0.1, -0.2, 0.15, 0.0), scale=1.0):
    x, fallbacks = np.array(start), 0
    for _ in range(steps):
        losses, J = _toy(x)
        J = J * scale
        found = weigh(losses, J @ J.T, r)
        fallbacks += found.fallback
        d = found.alpha @ J / scale
        x = x - lr * d
    return _toy(x)[0], fallbacks


# ------------------------------------------------------------------ EPO


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.8])
def test_epo_ends_where_weighted_losses_are_equal(share):
    r = np.array([share, 1 - share])
    losses, fallbacks = _descend(epo, r)
    assert fallbacks == 0
    weighted = r * losses
    assert weighted[0] == pytest.approx(weighted[1], rel=0.03)
    assert float(non_uniformity(losses, r)) < 1e-3


def test_linear_weights_do_not_balance_this_toy():
    """The control: on a hollow front linear weights run to an end, whatever the preference."""
    r = np.array([0.35, 0.65])
    losses, _ = _descend(SCALARIZERS["ls"], r)
    assert float(non_uniformity(losses, r)) > 0.1


@pytest.mark.parametrize("norm", [1e-4, 3e-4, 1e-3, 1.0, 1e3])
def test_epo_does_not_depend_on_the_scale_of_the_gradients(norm, rng):
    for _ in range(40):
        J = rng.normal(size=(3, 20))
        losses, r = rng.uniform(0.1, 3, 3), rng.dirichlet(np.ones(3))
        plain = epo(losses, J @ J.T, r)
        scaled = epo(losses, norm**2 * J @ J.T, r)
        assert scaled.alpha == pytest.approx(plain.alpha, abs=1e-6)
        assert scaled.fallback == plain.fallback


@pytest.mark.parametrize("K", [2, 3, 8])
def test_epo_solves_corners_without_falling_back(K, rng):
    for corner in np.eye(K):
        for _ in range(10):
            J = rng.normal(size=(K, 30))
            found = epo(rng.uniform(0.05, 3, K), J @ J.T, corner)
            assert not found.fallback
            assert np.isfinite(found.alpha).all()
            assert found.alpha.sum() == pytest.approx(K)
            assert (found.alpha >= 0).all()


def test_epo_weights_meet_the_conditions_of_the_program(rng):
    balanced = descended = 0
    for _ in range(200):
        K = int(rng.integers(2, 6))
        J = rng.normal(size=(K, 12))
        r = np.maximum(rng.dirichlet(np.ones(K)), 1e-6)
        r /= r.sum()
        losses = (1 / r) if rng.random() < 0.3 else rng.uniform(0.1, 3, K)
        found = epo(losses, J @ J.T, r)
        if found.fallback:
            continue
        C = J @ J.T
        C = C / np.diag(C).max()
        x = found.alpha / K
        p = r * losses / (r * losses).sum()
        mu = (p * np.log(K * p)).sum()
        c = C @ (r * (np.log(K * p) - mu))
        if mu > 1e-4:
            balanced += 1
            others = c <= 0
            others[np.argmax(r * losses)] = False
            assert ((C @ x)[others] >= c[others] - 1e-6).all()
            assert (C @ x)[np.argmax(r * losses)] >= -1e-6
            for _ in range(20):  # nothing feasible on the simplex gains more
                y = rng.dirichlet(np.ones(K))
                feasible = ((C @ y)[others] >= c[others]).all()
                feasible &= (C @ y)[np.argmax(r * losses)] >= 0
                if feasible and (c > 0).any():
                    assert y @ c <= x @ c + 1e-6
        else:
            descended += 1
            assert (C @ x >= -1e-6).all()
    assert balanced > 50
    assert descended > 20


def test_a_program_without_a_solution_takes_the_preference_and_says_so():
    # Not the inner products of any two vectors: each task would pull the other up twice over.
    impossible = np.array([[1.0, -2.0], [-2.0, 1.0]])
    found = epo(np.ones(2), impossible, np.array([0.5, 0.5]))
    assert found.fallback
    assert found.alpha.tolist() == [1.0, 1.0]


def test_real_gradients_never_make_it_fall_back(rng):
    for _ in range(300):
        K, size = int(rng.integers(2, 5)), int(rng.integers(1, 4))
        J = rng.integers(-3, 4, size=(K, size)).astype(float)
        r = rng.integers(1, 4, K) / 1.0
        assert not epo(rng.integers(1, 5, K) / 1.0, J @ J.T, r / r.sum()).fallback


def test_non_uniformity_is_a_divergence():
    r = np.array([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]])
    assert non_uniformity(1 / np.maximum(r, 1e-6), r) == pytest.approx(0, abs=1e-12)
    assert float(non_uniformity(np.array([1.0, 1e-12]), np.array([0.5, 0.5]))) == pytest.approx(
        np.log(2), abs=1e-6
    )


# ------------------------------------------------------------------ the others


@pytest.mark.parametrize("M", [2, 3, 5])
def test_the_shortest_combination_agrees_with_a_general_solver(M, rng):
    for scale in (1e-4, 1.0, 1e4):
        J = scale * rng.normal(size=(M, 4))
        x = min_norm(J @ J.T)
        assert (x >= 0).all()
        assert x.sum() == pytest.approx(1)
        C = J @ J.T / scale**2
        best = minimize(
            lambda y, C: y @ C @ y, np.full(M, 1 / M), args=(C,), jac=lambda y, C: 2 * C @ y,
            bounds=[(0, 1)] * M, constraints={"type": "eq", "fun": lambda y: y.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        assert x @ C @ x <= best.fun + 1e-7


def test_the_shortest_combination_agrees_with_torchjd(rng):
    aggregation = pytest.importorskip("torchjd.aggregation")
    import torch

    solver = aggregation.MGDAWeighting(epsilon=1e-12, max_iters=20000)
    for _ in range(5):
        J = rng.normal(size=(3, 20))
        theirs = solver(torch.as_tensor(J @ J.T)).numpy()
        assert min_norm(J @ J.T) == pytest.approx(theirs, abs=1e-3)


def test_mgda_lowers_every_loss(rng):
    for _ in range(50):
        J = rng.normal(size=(3, 12))
        r = rng.dirichlet(np.ones(3))
        assert (J @ (mgda(np.ones(3), J @ J.T, r).alpha @ J) > -1e-9).all()


def test_tchebycheff_follows_the_worst_and_the_smooth_one_nearly_does():
    losses, r = np.array([1.0, 3.0, 0.2]), np.array([0.3, 0.3, 0.4])
    hard, smooth = (f(losses, np.eye(3), r).alpha for f in (tchebycheff, smooth_tchebycheff))
    assert hard.tolist() == [0, 0.3, 0]
    assert smooth == pytest.approx(hard, abs=0.01)


def test_smooth_tchebycheff_is_the_gradient_of_its_loss():
    """With the temperature fixed at a tenth of the largest term."""
    losses, r = np.array([1.0, 1.1]), np.array([0.52, 0.48])
    mu = 0.1 * (r * losses).max()

    def value(x):
        return mu * np.log(np.exp(r * x / mu).sum())

    slopes = [(value(losses + h) - value(losses - h)) / 2e-6 for h in 1e-6 * np.eye(2)]
    assert smooth_tchebycheff(losses, np.eye(2), r).alpha == pytest.approx(slopes, rel=1e-5)


@pytest.mark.parametrize("name", ["tchebycheff", "smooth_tchebycheff"])
def test_tchebycheff_reaches_the_ray_as_well(name):
    r = np.array([0.35, 0.65])
    losses, _ = _descend(SCALARIZERS[name], r, steps=2000, lr=0.02)
    assert float(non_uniformity(losses, r)) < 5e-3


@pytest.mark.parametrize("name", [*SCALARIZERS, *JD_WEIGHTINGS])
def test_every_scalarization_lowers_losses_that_agree(name):
    if name in JD_WEIGHTINGS:
        pytest.importorskip("torchjd")
    J = np.array([[1.0, 0.2], [0.8, 0.5], [0.9, -0.1]])
    weigh = get_scalarizer(name)
    alpha = weigh(np.array([1.0, 2.0, 0.5]), J @ J.T, np.array([0.2, 0.5, 0.3])).alpha
    assert (J @ (alpha @ J) > 0).all()


def test_names_that_are_unknown_or_not_installed(monkeypatch):
    with pytest.raises(UnknownNameError, match="unknown scalarization 'eop'; did you mean 'epo'"):
        get_scalarizer("eop")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'moofusion\[jd\]'"):
        get_scalarizer("upgrad")


def test_gradients_that_are_not_finite_are_refused():
    with pytest.raises(ConfigurationError, match="NaN or infinite"):
        epo(np.ones(2), np.array([[1.0, np.nan], [np.nan, 1.0]]), np.full(2, 0.5))
