"""DARE, DELLA and Model Breadcrumbs: who stays, by what factor, and on average nothing lost."""

import numpy as np
import pytest
import torch
from deltas import LAYOUT, make, random_rows, used

from moofusion.errors import ConfigurationError
from moofusion.merging import Breadcrumbs, Dare, Della, Ties, make_method
from moofusion.merging.methods.sparse import seeded

ROWS = random_rows(3)


def _mean_over_seeds(method, count=200):
    """Mean of the rewritten vectors over seeds, and how far chance can move it."""
    found = torch.stack([used(method(seed)(make(ROWS)).deltas) for seed in range(count)])
    return found.mean(0), found.std(0) / count**0.5


# ------------------------------------------------------------------ DARE


def test_dare_drops_or_rescales():
    found = used(Dare(density=0.3)(make(ROWS)).deltas)
    kept = found != 0
    assert torch.allclose(found[kept], ROWS[kept] / 0.3)
    assert abs(float(kept.float().mean()) - 0.3) < 4 * (0.3 * 0.7 / kept.numel()) ** 0.5


@pytest.mark.parametrize(
    "method",
    [
        lambda seed: Dare(density=0.3, seed=seed),
        lambda seed: Della(density=0.4, epsilon=0.6, seed=seed, elect=False),
    ],
    ids=["dare", "della"],
)
def test_nothing_is_lost_on_average_over_seeds(method):
    mean, error = _mean_over_seeds(method)
    distance = ((mean - ROWS) / error.clamp(min=1e-9))[error > 0]
    assert distance.abs().max() < 5
    assert abs(float(distance.mean())) < 0.2


def test_seeds_experts_and_tensors_have_masks_of_their_own():
    same = torch.ones(1, LAYOUT.n_parameters).repeat(3, 1)
    masks = used(Dare(density=0.5)(make(same)).deltas) != 0
    other = used(Dare(density=0.5, seed=1)(make(same)).deltas) != 0
    for a, b in [(masks[0], masks[1]), (masks[0], masks[2]), (masks[0], other[0])]:
        assert 0.4 < float((a == b).float().mean()) < 0.6
    equal_sizes = [e for e in LAYOUT.entries if e.shape == (8, 8)]
    flat = Dare(density=0.5)(make(same)).deltas[0] != 0
    first, second = (flat[e.slice] for e in equal_sizes[:2])
    assert not torch.equal(first, second)


def test_a_mask_does_not_depend_on_who_else_is_merged():
    whole = Dare(density=0.5)(make(ROWS)).deltas
    assert torch.equal(Dare(density=0.5)(make(ROWS[:2])).deltas, whole[:2])


@pytest.mark.parametrize(
    "method", [Dare(density=1.0, elect=True), Breadcrumbs(density=1.0, gamma=0.0, elect=True)]
)
def test_election_is_that_of_ties(method):
    expected = Ties(density=1.0, scope="tensor")(make(ROWS)).deltas
    assert torch.equal(method(make(ROWS)).deltas, expected)


def slow_drop(method, deltas, name, experts):
    """DARE and DELLA one entry after the other; the draws alone are torch's."""
    found = [[0.0] * deltas[0].numel() for _ in deltas]
    for k, delta in enumerate(deltas):
        generator = seeded(method.seed, experts[k], name)
        draws = torch.rand(delta.shape, generator=generator).flatten().tolist()
        rows = [delta.flatten().tolist()] if delta.dim() < 2 else delta.flatten(1).tolist()
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                chance = method.density
                if isinstance(method, Della):
                    rank = sum(abs(other) < abs(value) for other in row)
                    chance += method.epsilon * ((rank + 0.5) / len(row) - 0.5)
                at = i * len(row) + j
                found[k][at] = value / chance if draws[at] < chance else 0.0
    if method.elect:
        signs = [np.sign(sum(column)) for column in zip(*found, strict=True)]
        majority = 1 if sum(signs) >= 0 else -1
        for at, sign in enumerate(signs):
            agree = [k for k in range(len(found)) if np.sign(found[k][at]) == (sign or majority)]
            for k in range(len(found)):
                found[k][at] = found[k][at] / len(agree) if k in agree else 0.0
    return torch.tensor(found).view(deltas.shape)


@pytest.mark.parametrize("shape", [(7,), (5, 6), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("elect", [False, True])
@pytest.mark.parametrize(
    "method", [Dare(density=0.4, seed=3), Della(density=0.5, epsilon=0.6, seed=3)], ids=repr
)
def test_dropping_is_that_of_a_slow_twin(method, elect, shape):
    method = method.at({"elect": elect})
    deltas = torch.randn(3, *shape, generator=torch.Generator().manual_seed(8))
    experts = ("x", "y", "z")
    found = method.rewrite(deltas.clone(), name="w", experts=experts)
    expected = slow_drop(method, deltas, "w", experts)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found == 0, expected == 0)


# ------------------------------------------------------------------ DELLA


def test_della_keeps_large_entries_more_often_by_the_formula_of_the_paper():
    method = Della(density=0.5, epsilon=0.8)
    delta = torch.randn(6, 9)
    found = method.probabilities(delta)
    for i in range(6):
        order = sorted(range(9), key=lambda j: abs(float(delta[i, j])))
        for rank, j in enumerate(order):
            expected = 0.5 + 0.8 * ((rank + 0.5) / 9 - 0.5)
            assert float(found[i, j]) == pytest.approx(expected)
        assert float(found[i].mean()) == pytest.approx(0.5)


def test_della_ranks_rows_of_matrices_and_whole_vectors():
    method = Della(density=0.5, epsilon=1.0)
    assert method.probabilities(torch.tensor([3.0, 1.0])).tolist() == [0.75, 0.25]
    kernel = torch.arange(8.0).view(2, 2, 1, 2)
    assert torch.equal(method.probabilities(kernel)[0], method.probabilities(kernel)[1])


def test_della_without_range_is_dare():
    a = Della(density=0.4, epsilon=0.0, elect=False)(make(ROWS)).deltas
    assert torch.allclose(a, Dare(density=0.4)(make(ROWS)).deltas)


# ------------------------------------------------------------------ Breadcrumbs


@pytest.mark.parametrize(("density", "gamma"), [(0.5, 0.1), (0.1, 0.0), (0.8, 0.2), (1.0, 0.0)])
def test_breadcrumbs_masks_both_tails(density, gamma):
    given = make(ROWS)
    found = Breadcrumbs(density=density, gamma=gamma)(given).deltas
    for entry in LAYOUT.entries:
        n = entry.size
        for k in range(3):
            row = given.deltas[k, entry.slice].numpy()
            expected = np.zeros(n, np.float32)
            ranked = np.argsort(np.abs(row))
            stop = n - int(gamma * n)
            for j in ranked[stop - int(density * n) : stop]:
                expected[j] = row[j]
            assert np.array_equal(found[k, entry.slice].numpy(), expected)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"method": "dare", "density": 0}, r"density must be in \(0, 1\], got 0"),
        ({"method": "dare", "seed": -1}, "seed must be a whole number from 0 up"),
        ({"method": "della", "density": 0.05, "epsilon": 0.2}, r"must lie in \[0, 1\]"),
        ({"method": "della", "epsilon": 2}, r"epsilon must be in \[0, 1\], got 2"),
        ({"method": "breadcrumbs", "density": 0.9, "gamma": 0.2}, "must not exceed 1"),
        ({"method": "breadcrumbs", "gamma": -0.1}, r"gamma must be in \[0, 1\]"),
    ],
)
def test_parameters_that_make_no_sense(table, words):
    with pytest.raises(ConfigurationError, match=words):
        make_method(table)
