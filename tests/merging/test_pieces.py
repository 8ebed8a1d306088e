"""Tensors merged in pieces: the same numbers as of the whole, whatever the size of a piece."""

import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moofusion.merging import make_method, pieces
from moofusion.merging.methods import sparse
from moofusion.merging.recipe import MergeRecipe
from moofusion.merging.streaming import StreamedMerge

L = {"a": 0.4, "b": 0.25, "c": 0.1}
TABLES = [
    {"method": "dare", "density": 0.4},
    {"method": "dare", "density": 0.4, "elect": True},
    {"method": "della", "elect": False},
    {"method": "della"},
    {"method": "breadcrumbs", "density": 0.5, "gamma": 0.1},
    {"method": "breadcrumbs", "density": 0.5, "gamma": 0.1, "elect": True},
    {"method": "ties", "scope": "tensor", "density": 0.4},
    {"method": "low-rank"},
    {"method": "tsv"},
    {"method": "tsv", "rank": 0.1},
    {"method": "iso"},
    {"method": "model-stock"},
]
SHAPES = {"matrix": (24, 10), "kernel": (6, 5, 3), "bias": (37,), "scale": ()}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models in bfloat16, so that many differences are equal in size. Read only."""
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    base = {n: torch.randn(shape, generator=generator).bfloat16() for n, shape in SHAPES.items()}
    found = {"base": base}
    for name in L:
        moved = {n: v + 0.1 * torch.randn(v.shape, generator=generator) for n, v in base.items()}
        found[name] = {n: v.bfloat16() for n, v in moved.items()}
    for name, tensors in found.items():
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors")
    return folder, found


@pytest.mark.parametrize("entries", [60, 1 << 20])
@pytest.mark.parametrize("table", TABLES, ids=str)
def test_any_pieces_give_what_the_whole_tensor_gives(models, monkeypatch, table, entries):
    folder, found = models
    monkeypatch.setattr(pieces, "_ENTRIES", entries)
    monkeypatch.setattr(sparse, "_FEW", 100)
    recipe = MergeRecipe(
        base="base", experts={n: n for n in L}, merge=table, coefficients=L, folder=str(folder)
    )
    merge, method = StreamedMerge(recipe), make_method(table)
    for name, shape in SHAPES.items():
        base = found["base"][name].float()
        deltas = torch.stack([found[expert][name].float() - base for expert in L])
        new = method.rewrite(deltas.clone(), name=name, experts=tuple(L))
        expected = base + torch.tensordot(torch.tensor(list(L.values())), new, 1)
        assert merge.tensor(name).shape == shape
        assert torch.allclose(merge.tensor(name), expected, atol=2e-6), name
        assert name != "matrix" or not torch.allclose(expected, base, atol=1e-4)


@pytest.mark.parametrize("few", [0, 1 << 14])
def test_breadcrumbs_among_equal_magnitudes_are_those_of_a_stable_sort(rng, monkeypatch, few):
    monkeypatch.setattr(sparse, "_FEW", few)
    for trial in range(60):
        n = int(rng.integers(1, 40))
        gamma = float(rng.uniform(0, 0.5))
        density = float(rng.uniform(0.05, 1 - gamma))
        delta = torch.from_numpy(rng.integers(-2, 3, n).astype(np.float32))
        method = make_method({"method": "breadcrumbs", "density": density, "gamma": gamma})
        found = method.rewrite(delta[None].clone(), name="w", experts=("a",))[0]
        largest, stays = int(gamma * n), int(density * n)
        order = sorted(range(n), key=lambda i: abs(float(delta[i])))  # stable, as sorted is
        kept = set(order[n - largest - stays : n - largest])
        expected = [float(delta[i]) if i in kept else 0.0 for i in range(n)]
        assert found.tolist() == expected, trial


@pytest.mark.parametrize("few", [0, 1 << 14])
def test_magnitudes_of_ranks_are_those_of_a_sort(rng, monkeypatch, few):
    monkeypatch.setattr(sparse, "_FEW", few)
    rows = torch.from_numpy(rng.normal(size=(3, 500)).astype(np.float32))
    rows[:, ::7] = 0.5
    ranks = [0, 3, 250, 430, 499]
    found = sparse.magnitudes_at(lambda: rows.split(64, dim=1), ranks, experts=3, size=500)
    for row, own in zip(rows, found, strict=True):
        ordered = row.abs().sort().values
        for rank, (value, equal) in zip(ranks, own, strict=True):
            assert value == float(ordered[rank])
            assert equal == rank - int((ordered < value).sum())


@pytest.mark.parametrize("table", [{"method": "tsv"}, {"method": "iso"}], ids=str)
def test_singular_methods_read_one_expert_at_a_time(models, table):
    """A difference is given up before the next is read, whatever the number of experts."""
    _, found = models
    method, given = make_method(table), []
    base = found["base"]["matrix"].float()

    def read(k):
        assert not any(one() is not None for one in given)
        delta = found[list(L)[k]]["matrix"].float() - base
        given.append(weakref.ref(delta))
        return delta

    method.total(read, list(L.values()), name="matrix", experts=tuple(L))
    assert len(given) >= len(L)
