"""Low rank, TSV-M, Iso-C and Model Stock against numpy, step by step as in their papers."""

import numpy as np
import pytest
import torch
from deltas import make, random_rows

from moofusion.errors import ConfigurationError
from moofusion.merging import Iso, LowRank, ModelStock, Tsv, make_method
from moofusion.weights import ParameterLayout

SHAPES = {"wide": (6, 10), "tall": (12, 5), "bias": (7,), "kernel": (4, 3, 2, 2), "one": (1, 4)}
LAYOUT = ParameterLayout(SHAPES)
K = 3


@pytest.fixture
def given():
    return make(random_rows(K, layout=LAYOUT), layout=LAYOUT)


def tensors(vectors):
    """For each tensor the experts' differences, as arrays in double precision."""
    return {
        e.name: vectors.deltas[:, e.slice].double().numpy().reshape(-1, *e.shape)
        for e in vectors.layout.entries
    }


def test_low_rank_is_the_best_approximation(given):
    found = tensors(LowRank(rank=0.4)(given))
    for name, deltas in tensors(given).items():
        if deltas.ndim != 3:
            assert np.array_equal(found[name], deltas)
            continue
        r = max(1, int(0.4 * min(deltas.shape[1:])))
        for k in range(K):
            assert np.linalg.matrix_rank(found[name][k], tol=1e-4) == r
            values = np.linalg.svd(deltas[k], compute_uv=False)
            lost = np.linalg.norm(found[name][k] - deltas[k])
            assert lost == pytest.approx(np.sqrt((values[r:] ** 2).sum()), rel=1e-4, abs=1e-6)


def slow_tsv(deltas):
    """The merged matrix of TSV-M, as its authors compute it."""
    r = max(1, int(min(deltas[0].shape) / len(deltas)))
    parts = [np.linalg.svd(d, full_matrices=False) for d in deltas]
    U = np.hstack([u[:, :r] for u, _, _ in parts])
    S = np.concatenate([s[:r] for _, s, _ in parts])
    V = np.vstack([v[:r] for _, _, v in parts])
    P, _, Q = np.linalg.svd(U, full_matrices=False)
    R, _, T = np.linalg.svd(V, full_matrices=False)
    return P @ Q @ np.diag(S) @ R @ T


def test_tsv_is_that_of_the_paper(given):
    found = tensors(Tsv()(given))
    for name, deltas in tensors(given).items():
        if deltas.ndim == 3:
            expected = slow_tsv(deltas)
        else:
            expected = deltas.mean(0)
        assert np.allclose(found[name].sum(0), expected, atol=1e-5), name


def test_tsv_makes_the_experts_orthogonal(given):
    found = tensors(Tsv()(given))["wide"]
    for i in range(K):
        for j in range(i):
            assert np.abs(found[i].T @ found[j]).max() < 1e-5
            assert np.abs(found[i] @ found[j].T).max() < 1e-5


def slow_iso(deltas):
    U, S, V = np.linalg.svd(deltas.sum(0), full_matrices=False)
    return S.mean() * U @ V


def test_iso_is_that_of_the_paper(given):
    found = tensors(Iso()(given))
    for name, deltas in tensors(given).items():
        expected = slow_iso(deltas) if deltas.ndim == 3 else deltas.mean(0)
        assert np.allclose(found[name].sum(0), expected, atol=1e-5), name


def test_iso_shares_never_exceed_the_whole(given):
    found = tensors(Iso()(given))
    for name in ("wide", "tall"):
        level = np.linalg.svd(found[name].sum(0), compute_uv=False)
        assert np.allclose(level, level[0], rtol=1e-4)
        for k in range(K):
            assert np.linalg.svd(found[name][k], compute_uv=False).max() < level[0]


def test_iso_gives_experts_in_different_subspaces_their_own():
    deltas = torch.zeros(2, 4, 4)
    deltas[0, :2, :2] = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    deltas[1, 2:, 2:] = torch.tensor([[1.0, 0.0], [4.0, 1.0]])
    found = Iso().rewrite(deltas.clone(), name="w", experts=("a", "b"))
    assert torch.allclose(found[0], found.sum(0) * (deltas[0] != 0).any(0).float()[None], atol=1e-5)
    assert not found[0, 2:].abs().max() > 1e-5


def test_model_stock_is_that_of_the_paper(given):
    found = tensors(ModelStock()(given))
    for name, deltas in tensors(given).items():
        cosines = []
        for i in range(K):
            for j in range(i):
                a, b = deltas[i].ravel(), deltas[j].ravel()
                cosines.append(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        c = np.clip(np.mean(cosines), 0, 1)
        t = K * c / (1 + (K - 1) * c)
        assert np.allclose(found[name].sum(0), t * deltas.mean(0), atol=1e-6), name


def test_model_stock_of_equal_experts_is_the_expert():
    rows = random_rows(1, layout=LAYOUT).repeat(4, 1)
    found = ModelStock()(make(rows, layout=LAYOUT)).deltas.sum(0)
    assert torch.allclose(found, make(rows, layout=LAYOUT).deltas[0], atol=1e-6)


@pytest.mark.parametrize(
    "table",
    [
        {"method": "low-rank", "rank": 0},
        {"method": "tsv", "rank": 1.5},
        {"method": "low-rank", "rank": 8.0},
    ],
)
def test_ranks_that_are_none(table):
    with pytest.raises(
        ConfigurationError, match=r"rank must be a share in \(0, 1\], or a whole number"
    ):
        make_method(table)
