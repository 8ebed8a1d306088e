"""Task vectors: differences, their geometry, and exact return to every expert."""

import numpy as np
import pytest
import torch

from moofusion.weights import ParameterLayout, TaskVectors

LAYOUT = ParameterLayout({"layers.0.w": (40, 5), "layers.1.w": (30,), "head.w": (17,)})


def _vectors(seed=0, scale=1.0, names=("a", "b", "c")):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(LAYOUT.size, generator=generator)
    experts = [base + scale * torch.randn(LAYOUT.size, generator=generator) for _ in names]
    return TaskVectors.build(LAYOUT, names, base, experts), base, experts


def _exact(expert, base):
    return expert.double().numpy() - base.double().numpy()


def test_norms_and_cosines_agree_with_numpy_in_double_precision():
    vectors, base, experts = _vectors()
    tau = np.stack([_exact(e, base) for e in experts])
    norms = np.linalg.norm(tau, axis=1)
    assert vectors.norms() == pytest.approx(norms, rel=1e-6)
    assert vectors.cosines() == pytest.approx(tau @ tau.T / np.outer(norms, norms), abs=1e-6)
    assert np.diag(vectors.cosines()) == pytest.approx(np.ones(3))


@pytest.mark.parametrize("granularity", ["model", "block", "tensor"])
def test_group_norms_split_the_norm(granularity):
    vectors, base, experts = _vectors()
    partition = LAYOUT.partition(granularity)
    found = vectors.group_norms(partition)
    assert found.shape == (partition.n_groups, 3)
    for start, stop, group in partition.segments:
        part = [np.linalg.norm(_exact(e, base)[start:stop]) for e in experts]
        assert found[group] == pytest.approx(part, rel=1e-5)
    assert np.sqrt((found**2).sum(0)) == pytest.approx(vectors.norms(), rel=1e-5)


def test_group_norms_leave_out_what_is_static():
    vectors, base, experts = _vectors()
    found = vectors.group_norms(LAYOUT.partition("model", select="layers.*"))
    start = next(e.offset for e in LAYOUT.entries if e.name == "head.w")
    assert found[0] == pytest.approx(
        [np.linalg.norm(_exact(e, base)[:start]) for e in experts], rel=1e-5
    )


def test_an_expert_that_equals_the_base_has_cosine_zero():
    base = torch.ones(LAYOUT.size)
    vectors = TaskVectors.build(LAYOUT, ["same", "other"], base, [base, 2 * base])
    assert vectors.norms()[0] == 0
    assert vectors.cosines().tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e8])
def test_experts_come_back_bit_for_bit_whatever_the_magnitudes(scale):
    vectors, _, experts = _vectors(scale=scale)
    for k, expert in enumerate(experts):
        assert torch.equal(vectors.expert(k), expert)


def test_experts_come_back_bit_for_bit_when_signs_flip_and_magnitudes_differ_wildly():
    generator = torch.Generator().manual_seed(3)
    exponents = torch.randint(-30, 30, (LAYOUT.size,), generator=generator)
    base = torch.randn(LAYOUT.size, generator=generator) * 2.0**exponents
    other = torch.randn(LAYOUT.size, generator=generator) * 2.0 ** exponents.flip(0)
    experts = [-base, other, base * (1 + 2**-23), torch.zeros_like(base)]
    vectors = TaskVectors.build(LAYOUT, ["minus", "other", "next", "zero"], base, experts)
    assert len(vectors.residue[1][0]) > 0  # rounding loses something here
    for k, expert in enumerate(experts):
        assert torch.equal(vectors.expert(k), expert)


def test_the_same_weights_have_the_same_fingerprint():
    assert _vectors()[0].fingerprint() == _vectors()[0].fingerprint()


@pytest.mark.parametrize("position", [0, 150, LAYOUT.entries[-1].offset + 16])
@pytest.mark.parametrize("model", ["base", "expert"])
def test_any_weight_changes_the_fingerprint(position, model):
    vectors = _vectors()[0]
    _, base, experts = _vectors()
    changed = base if model == "base" else experts[1]
    changed[position] = torch.nextafter(changed[position], torch.tensor(9.0))
    other = TaskVectors.build(LAYOUT, vectors.names, base, experts)
    assert other.fingerprint() != vectors.fingerprint()


def test_names_and_their_order_change_the_fingerprint():
    vectors, base, experts = _vectors()
    renamed = TaskVectors.build(LAYOUT, ["a", "b", "d"], base, experts)
    swapped = TaskVectors.build(LAYOUT, ["b", "a", "c"], base, [experts[1], experts[0], experts[2]])
    assert len({v.fingerprint() for v in (vectors, renamed, swapped)}) == 3


def test_building_changes_neither_base_nor_experts():
    generator = torch.Generator().manual_seed(0)
    base, expert = (torch.randn(LAYOUT.size, generator=generator) for _ in "ab")
    before = base.clone(), expert.clone()
    vectors = TaskVectors.build(LAYOUT, ["a"], base, [expert])
    vectors.expert(0), vectors.norms(), vectors.fingerprint()
    assert torch.equal(base, before[0])
    assert torch.equal(expert, before[1])
