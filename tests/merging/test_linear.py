"""The linear merge against slow, obvious twins."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch

from moofusion.merging import LinearMerge
from moofusion.weights import ParameterLayout, TaskVectors

NAMES = ("a", "b", "c")
SHAPES = {name: tuple(p.shape) for name, p in tiny.net().named_parameters()}
LAYOUT = ParameterLayout(SHAPES)
CASES = [
    *[(g, None) for g in ("model", "block", "module", "tensor")],
    *[(g, s) for g in ("model", "block", "tensor") for s in ("mlp", "attention+norm")],
    ("block", "layers.[02].*"),
]


@pytest.fixture(scope="module")
def models():
    """The base and three experts as named tensors; far apart, so that differences are rounded."""
    experts = [tiny.drift(tiny.net(), 10 + k, 2.0) for k in range(3)]
    return [dict(m.named_parameters()) for m in (tiny.drift(tiny.net(), 9, 3.0), *experts)]


@pytest.fixture(scope="module")
def vectors(models):
    flat = []
    for tensors in models:
        flat.append(torch.zeros(LAYOUT.size))
        for entry in LAYOUT.entries:
            flat[-1][entry.slice] = tensors[entry.name].detach().flatten()
    built = TaskVectors.build(LAYOUT, NAMES, flat[0], flat[1:])
    assert all(len(positions) > 5 for positions, _ in built.residue)
    return built


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def partition(request):
    granularity, select = request.param
    return LAYOUT.partition(granularity, select=select)


STATIC = np.array([0.3, 0.0, -0.2])


def _rows(partition, L):
    """Coefficients of every tensor, shape ``(tensors, K)``."""
    return np.array([STATIC if g == -1 else L[g] for g in partition.groups])


def _twin(models, partition, L):
    """theta_0 + sum_k L[g, k] (theta_k - theta_0), tensor by tensor in double precision."""
    base, *experts = models
    merged = {}
    for entry, row in zip(LAYOUT.entries, _rows(partition, L), strict=True):
        start = base[entry.name].detach().double()
        ends = [expert[entry.name].detach().double() for expert in experts]
        merged[entry.name] = start + sum(c * (e - start) for c, e in zip(row, ends, strict=True))
    return merged


def _merge(vectors, partition, L):
    out = torch.full((LAYOUT.size,), float("nan"))
    LinearMerge(vectors, partition, static=STATIC)(L, out=out)
    return out


def _tensor(flat, entry):
    return flat[entry.slice].view(entry.shape)


def test_merging_agrees_with_a_slow_twin(models, vectors, partition, rng):
    for _ in range(5):
        L = rng.normal(size=(partition.n_groups, 3))
        found, expected = _merge(vectors, partition, L), _twin(models, partition, L)
        for entry in LAYOUT.entries:
            error = _tensor(found, entry).double() - expected[entry.name]
            assert error.abs().max() < 1e-5


def test_one_hot_rows_give_the_expert_bit_for_bit(models, vectors, partition, rng):
    for _ in range(5):
        L = np.eye(3)[rng.integers(0, 3, partition.n_groups)]
        found = _merge(vectors, partition, L)
        for entry, group in zip(LAYOUT.entries, partition.groups, strict=True):
            if group >= 0:
                expert = models[1 + L[group].argmax()][entry.name]
                assert torch.equal(_tensor(found, entry), expert)


def test_zeros_give_the_base_bit_for_bit(models, vectors, partition):
    found = _merge(vectors, partition, np.zeros((partition.n_groups, 3)))
    for entry, group in zip(LAYOUT.entries, partition.groups, strict=True):
        if group >= 0:
            assert torch.equal(_tensor(found, entry), models[0][entry.name])


def test_a_one_hot_static_part_is_exact_too(models, vectors):
    partition = LAYOUT.partition("block", select="mlp")
    out = torch.empty(LAYOUT.size)
    merge = LinearMerge(vectors, partition, static=np.array([0.0, 1.0, 0.0]))
    merge(np.full((partition.n_groups, 3), 0.2), out=out)
    for entry, group in zip(LAYOUT.entries, partition.groups, strict=True):
        if group == -1:
            assert torch.equal(_tensor(out, entry), models[2][entry.name])


def test_an_almost_one_hot_row_is_merged_like_any_other(models, vectors):
    partition = LAYOUT.partition("model")
    L = np.array([[0.0, 1.0, 1e-3]])
    expected = _twin(models, partition, L)
    for entry in LAYOUT.entries:
        found = _tensor(_merge(vectors, partition, L), entry)
        assert not torch.equal(found, models[2][entry.name])
        assert (found.double() - expected[entry.name]).abs().max() < 1e-5


def test_permuting_the_experts_permutes_the_coefficients(vectors, partition, rng):
    order = [2, 0, 1]
    permuted = TaskVectors(
        LAYOUT,
        tuple(NAMES[k] for k in order),
        vectors.base,
        vectors.deltas[order],
        tuple(vectors.residue[k] for k in order),
    )
    L = rng.normal(size=(partition.n_groups, 3))
    out = torch.empty(LAYOUT.size)
    LinearMerge(permuted, partition, static=STATIC[order])(L[:, order], out=out)
    assert torch.allclose(out, _merge(vectors, partition, L), atol=1e-5)


def test_merging_changes_no_input(vectors, partition, rng):
    L = rng.normal(size=(partition.n_groups, 3))
    before = L.copy(), vectors.base.clone(), vectors.deltas.clone()
    first = _merge(vectors, partition, L)
    assert torch.equal(first, _merge(vectors, partition, L))
    assert (before[0] == L).all()
    assert torch.equal(before[1], vectors.base)
    assert torch.equal(before[2], vectors.deltas)


def test_the_merge_is_written_to_the_buffer_that_was_given(vectors):
    out = torch.empty(LAYOUT.size)
    merge = LinearMerge(vectors, LAYOUT.partition("model"), static=STATIC)
    assert merge(np.ones((1, 3)), out=out) is out


@pytest.fixture(scope="module")
def halves(vectors):
    return dataclasses.replace(vectors, deltas=vectors.deltas.bfloat16())


def test_half_precision_deltas_give_nearly_the_same(vectors, halves, partition, rng):
    L = rng.uniform(0, 1, (partition.n_groups, 3))
    found, expected = _merge(halves, partition, L), _merge(vectors, partition, L)
    assert found.dtype == torch.float32
    # bfloat16 keeps 8 bits: half a unit in the last place of each of the three terms.
    bound = 2.0**-8 * vectors.deltas.abs().sum(0) + 1e-5
    assert ((found - expected).abs() <= bound).all()
    assert not torch.equal(found, expected)


def test_one_hot_rows_are_exact_with_half_precision_deltas_too(models, vectors):
    experts = [vectors.expert(k) for k in range(3)]
    deltas = torch.empty(3, LAYOUT.size, dtype=torch.bfloat16)
    residue = tuple(
        TaskVectors.subtract(vectors.base, expert, deltas[k]) for k, expert in enumerate(experts)
    )
    halves = TaskVectors(LAYOUT, NAMES, vectors.base, deltas, residue)
    partition = LAYOUT.partition("model")
    for k, expert in enumerate(experts):
        assert torch.equal(halves.expert(k), expert)
        assert torch.equal(_merge(halves, partition, np.eye(3)[[k]]), expert)


# ------------------------------------------------------------------------------- gradients


def _loss(weights):
    """Some smooth function of all merged weights, in their own precision."""
    w = weights[: LAYOUT.size // 2 * 2]
    return (torch.sin(w) * torch.arange(len(w), dtype=w.dtype)).sum() / len(w) + (w**2).mean()


@pytest.fixture(scope="module")
def doubles(vectors):
    return dataclasses.replace(
        vectors, base=vectors.base.double(), deltas=vectors.deltas.double(), residue=()
    )


def _explicit(doubles, partition, L):
    """The merge as autograd sees it: a weighted sum, run by run."""
    static = torch.from_numpy(STATIC)
    runs = [
        doubles.base[a:b] + (static if g == -1 else L[g]) @ doubles.deltas[:, a:b]
        for a, b, g in partition.segments
    ]
    return torch.cat(runs)


def test_the_gradient_agrees_with_autograd_in_double_precision(doubles, partition, rng):
    L = torch.from_numpy(rng.normal(size=(partition.n_groups, 3))).requires_grad_(True)
    _loss(_explicit(doubles, partition, L)).backward()
    weights = _explicit(doubles, partition, L.detach()).requires_grad_(True)
    _loss(weights).backward()
    merge = LinearMerge(doubles, partition, static=STATIC)
    found = merge.gradient(weights.grad)
    assert found.dtype == np.float64
    assert found == pytest.approx(L.grad.numpy(), rel=1e-8, abs=1e-8)


def test_the_gradient_agrees_with_finite_differences(doubles, partition, rng):
    L = rng.normal(size=(partition.n_groups, 3))
    merge = LinearMerge(doubles, partition, static=STATIC)

    def loss(coefficients):
        return float(_loss(_explicit(doubles, partition, torch.from_numpy(coefficients))))

    weights = _explicit(doubles, partition, torch.from_numpy(L)).requires_grad_(True)
    _loss(weights).backward()
    found = merge.gradient(weights.grad)
    for _ in range(4):
        move = rng.normal(size=L.shape)
        slope = (loss(L + 1e-5 * move) - loss(L - 1e-5 * move)) / 2e-5
        assert (found * move).sum() == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_the_gradient_of_half_precision_deltas_is_close(vectors, halves, partition):
    flat = torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(0))
    exact = LinearMerge(vectors, partition, static=STATIC).gradient(flat)
    found = LinearMerge(halves, partition, static=STATIC).gradient(flat)
    bound = 2.0**-8 * float(flat.abs().max()) * vectors.deltas.abs().sum(1).numpy()
    assert (np.abs(found - exact) <= bound).all()
    assert found == pytest.approx(exact, rel=0.05, abs=1.0)
