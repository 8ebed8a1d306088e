"""Gradients of coefficients in double precision, against an explicit weighted sum."""

import numpy as np
import pytest
import tiny
import torch
from torch.func import functional_call
from torch.nn import functional

from moofusion.merging import make_space
from moofusion.problems.evaluator import Evaluator
from moofusion.tasks import Task, TensorClassification
from moofusion.weights import ParameterLayout, TaskVectors
from moofusion.weights.flat import FlatModel
from moofusion.weights.pool import LoadedPool

NAMES = ("a", "b", "c")


class _Double(Task):
    """Cross-entropy that stays in double precision."""

    metrics = TensorClassification.metrics

    def __init__(self, name, seed):
        super().__init__(name)
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(24, 4, generator=generator).double()
        self.y = torch.randint(0, 3, (24,), generator=generator)

    def has_split(self, split):
        return True

    def n_samples(self, split):
        return len(self.y)

    def evaluate(self, module, split):
        raise NotImplementedError

    def loss(self, module, split, indices=None):
        rows = slice(None) if indices is None else torch.as_tensor(indices)
        return functional.cross_entropy(module(self.x[rows]), self.y[rows])


@pytest.fixture(params=["task-wise", "module-wise", {"kind": "tensor-wise", "select": "mlp"}])
def opened(request):
    """An evaluator in float64, and base and experts as dictionaries of tensors."""
    base = tiny.net().double()
    experts = {n: tiny.drift(tiny.net().double(), i, 0.5) for i, n in enumerate(NAMES)}
    states = [{k: v.clone() for k, v in m.state_dict().items()} for m in (base, *experts.values())]
    layout = ParameterLayout({k: tuple(v.shape) for k, v in states[0].items()})

    def flat(state):
        out = torch.zeros(layout.size, dtype=torch.float64)
        for entry in layout.entries:
            out[entry.slice] = state[entry.name].flatten()
        return out

    rows = [flat(state) for state in states]
    vectors = TaskVectors.build(layout, NAMES, rows[0], rows[1:])
    modules = {"base": base, **experts}
    model = FlatModel(layout, rows[0].clone(), modules, lambda m: {k: k for k in states[0]})
    options = {"kind": request.param} if isinstance(request.param, str) else dict(request.param)
    space = make_space(options.pop("kind"), layout, NAMES, **options)
    tasks = [_Double(name, seed) for seed, name in enumerate(NAMES)]
    return Evaluator(LoadedPool(vectors, model), tasks, space), states


def _weighted_sum(evaluator, states, L):
    """Losses and gradients by autograd through theta_0 + sum_k L[g, k] tau_k."""
    leaf = torch.tensor(L, requires_grad=True)
    static = torch.tensor(evaluator.space.static)
    layout, groups = evaluator.pool.layout, evaluator.space.partition.groups
    merged = {}
    for entry, group in zip(layout.entries, groups, strict=True):
        row = leaf[group] if group >= 0 else static
        base, *experts = (state[entry.name] for state in states)
        merged[entry.name] = base + sum(row[k] * (e - base) for k, e in enumerate(experts))
    twin = tiny.net().double()
    losses, gradients = [], []
    for task in evaluator.tasks:
        loss = functional.cross_entropy(functional_call(twin, merged, (task.x,)), task.y)
        gradients.append(torch.autograd.grad(loss, leaf, retain_graph=True)[0].numpy())
        losses.append(loss.item())
    return np.array(losses), np.array(gradients)


def test_gradients_agree_with_autograd_through_the_weighted_sum(opened, rng):
    evaluator, states = opened
    shape = (evaluator.space.n_groups, 3)
    for _ in range(3):
        L = rng.uniform(-0.5, 1.5, shape)
        losses, gradients = evaluator.losses_and_grads(L, evaluator.tasks)
        expected, slopes = _weighted_sum(evaluator, states, L)
        assert losses == pytest.approx(expected, rel=1e-12)
        assert np.abs(gradients - slopes).max() < 1e-8
        assert np.abs(slopes).max() > 1e-2


def test_gradients_agree_with_finite_differences(opened, rng):
    evaluator, _ = opened
    L = rng.uniform(0, 1, (evaluator.space.n_groups, 3))
    _, gradients = evaluator.losses_and_grads(L, evaluator.tasks)
    for _ in range(5):
        d = rng.normal(size=L.shape)
        up, down = (
            evaluator.losses_and_grads(L + s * d, evaluator.tasks)[0] for s in (1e-5, -1e-5)
        )
        slopes = (up - down) / 2e-5
        assert (gradients * d).sum(axis=(1, 2)) == pytest.approx(slopes, rel=1e-6, abs=1e-8)


def test_a_minibatch_is_the_samples_asked_for(opened, rng):
    evaluator, _ = opened
    L = rng.uniform(0, 1, (evaluator.space.n_groups, 3))
    rows = np.arange(0, 24, 2)
    whole, _ = evaluator.losses_and_grads(L, evaluator.tasks)
    halves = [
        evaluator.losses_and_grads(L, evaluator.tasks, indices=[part] * 3)[0]
        for part in (rows, rows + 1)
    ]
    assert np.mean(halves, axis=0) == pytest.approx(whole, rel=1e-12)


def test_groups_that_are_not_wanted_take_no_gradient(opened, rng):
    evaluator, _ = opened
    L = rng.uniform(0, 1, (evaluator.space.n_groups, 3))
    whole = evaluator.losses_and_grads(L, evaluator.tasks)
    wanted = np.arange(len(L)) % 2 == 0
    part = evaluator.losses_and_grads(L, evaluator.tasks, groups=wanted)
    assert part[0] == pytest.approx(whole[0], rel=1e-14)
    assert part[1][:, wanted] == pytest.approx(whole[1][:, wanted], rel=1e-12)
    assert (part[1][:, ~wanted] == 0).all()
