"""TIES against a loop over positions, and against the properties of its paper."""

import numpy as np
import pytest
import torch
from deltas import LAYOUT, make, random_rows, used

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging import Ties, make_method
from moofusion.weights import ParameterLayout


def slow_ties(rows, density):
    """Algorithm 1 of the paper for vectors ``(K, n)``, position by position in double precision."""
    rows = rows.double().numpy().copy()
    keep = max(1, int(density * rows.shape[1]))
    for row in rows:
        row[np.argsort(-np.abs(row), kind="stable")[keep:]] = 0
    signs = np.sign(rows.sum(axis=0))
    signs[signs == 0] = 1 if signs.sum() >= 0 else -1
    merged = np.zeros(rows.shape[1])
    for j in range(rows.shape[1]):
        agreeing = [v for v in rows[:, j] if v * signs[j] > 0]
        merged[j] = np.mean(agreeing) if agreeing else 0.0
    return merged


@pytest.fixture
def deltas():
    return random_rows()


@pytest.mark.parametrize("density", [0.01, 0.2, 0.7, 1.0])
def test_equal_coefficients_give_the_merge_of_the_paper(deltas, density):
    found = used(Ties(density=density)(make(deltas)).deltas).sum(0)
    assert torch.allclose(found.double(), torch.tensor(slow_ties(deltas, density)), atol=1e-6)


def test_the_share_may_be_taken_within_each_tensor(deltas):
    found = Ties(density=0.3, scope="tensor")(make(deltas)).deltas.sum(0)
    given = make(deltas).deltas
    # Only where signs cancel exactly do tensors know of each other, and here none do.
    for entry in LAYOUT.entries:
        expected = slow_ties(given[:, entry.slice], 0.3)
        assert torch.allclose(found[entry.slice].double(), torch.tensor(expected), atol=1e-6)


def test_cancelled_positions_take_the_sign_of_the_majority():
    layout = ParameterLayout({"w": (4,)})
    rows = torch.tensor([[1.0, -1.0, -1.0, 2.0], [1.0, -2.0, -3.0, -2.0]])
    found = Ties(density=1.0)(make(rows, layout=layout)).deltas.sum(0)
    assert found[:4].tolist() == [1.0, -1.5, -2.0, -2.0]


def test_agreeing_signs_and_density_one_give_the_average(deltas):
    same = deltas.abs() * deltas[0].sign()
    found = used(Ties(density=1.0)(make(same)).deltas)
    assert torch.allclose(found, same / 4)


def test_identical_experts_merge_to_one_of_them_trimmed(deltas):
    rows = deltas[:1].repeat(3, 1)
    found = used(Ties(density=0.5)(make(rows)).deltas).sum(0)
    kept = found != 0
    assert int(kept.sum()) == int(0.5 * LAYOUT.n_parameters)
    assert torch.allclose(found[kept], deltas[0][kept])
    assert deltas[0][kept].abs().min() >= deltas[0][~kept].abs().max()


def test_pieces_make_no_difference(deltas, monkeypatch):
    whole = Ties(density=0.3)(make(deltas)).deltas
    monkeypatch.setattr("moofusion.merging.methods.ties._PIECE", 7)
    assert torch.equal(Ties(density=0.3)(make(deltas)).deltas, whole)


@pytest.mark.parametrize("density", [0, -0.1, 1.5, float("nan"), "much"])
def test_densities_that_are_none(density):
    with pytest.raises(ConfigurationError, match="merge method 'ties'"):
        make_method({"method": "ties", "density": density})


def test_wrong_names_are_explained():
    with pytest.raises(UnknownNameError, match="'tis'; did you mean 'ties'"):
        make_method("tis")
    with pytest.raises(UnknownNameError, match="'ties' 'densty'; did you mean 'density'"):
        make_method({"method": "ties", "densty": 0.2})
    with pytest.raises(ConfigurationError, match="scope must be one of model, tensor; got 'block'"):
        make_method({"method": "ties", "scope": "block"})
