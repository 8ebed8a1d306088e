"""What holds for every merge method, measured inside a problem."""

import copy
import pickle

import numpy as np
import pytest
import tiny
import torch
from deltas import make, random_rows

from moofusion.errors import ConfigurationError
from moofusion.merging import METHODS, TaskVectorTransform, make_method
from moofusion.problems import MergeProblem
from moofusion.weights import ModelPool

METHOD = {
    name: {"method": name} | ({"samples": 20} if name in ("fisher", "regmean") else {})
    for name in METHODS
}
TRANSFORMS = [n for n, m in METHODS.items() if issubclass(m, TaskVectorTransform)]
EXACT = [
    "linear",
    "average",
    {"method": "dare", "density": 1.0},
    {"method": "breadcrumbs", "density": 1.0, "gamma": 0.0},
    {"method": "low-rank", "rank": 1.0},
    "slerp",
    {"method": "slerp", "of": "task-vectors"},
    METHOD["fisher"],
    METHOD["regmean"],
]


@pytest.fixture(scope="module")
def tasks():
    return tiny.net_tasks(tiny.net_pool())


def _far_pool():
    """Experts so far from the base that differences are rounded."""
    experts = {name: tiny.drift(tiny.net(), 10 + k, 2.0) for k, name in enumerate("abc")}
    return ModelPool(tiny.drift(tiny.net(), 9, 3.0), experts)


@pytest.mark.parametrize("merge", EXACT, ids=str)
def test_one_hot_coefficients_give_the_expert_bit_for_bit(merge, tasks):
    problem = MergeProblem(_far_pool(), tasks, merge=merge, space="block-wise")
    vectors = problem.evaluator.pool.vectors
    assert all(len(positions) > 0 for positions, _ in vectors.residue)
    for k in range(3):
        L = np.tile(np.eye(3)[k], (problem.space.n_groups, 1))
        assert torch.equal(problem.evaluator.weights(L), vectors.expert(k))


@pytest.mark.parametrize("name", METHODS)
def test_permuted_experts_permute_the_coefficients(name, tasks):
    pool = tiny.net_pool()
    order = [2, 0, 1]
    turned = ModelPool(pool.base, {pool.names[k]: pool.experts[pool.names[k]] for k in order})
    L = np.array([[0.2, 0.7, 0.4]])
    plain, again = (MergeProblem(p, tasks, merge=METHOD[name]) for p in (pool, turned))
    found = again.evaluator.weights(L[:, order])
    assert torch.allclose(found, plain.evaluator.weights(L), atol=2e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_static_part_keeps_its_own_coefficients(name, tasks):
    pool = tiny.net_pool()
    L = np.array([[0.2, 0.7, 0.4]])
    static = np.array([0.5, 0.3, 0.1])
    space = {"kind": "task-wise", "select": "mlp", "static": static.tolist()}
    part = MergeProblem(pool, tasks, merge=METHOD[name], space=space)
    whole = MergeProblem(pool, tasks, merge=METHOD[name])
    found = part.evaluator.weights(L)
    ends = {True: whole.evaluator.weights(L), False: whole.evaluator.weights(static[None])}
    for entry in part.evaluator.pool.layout.entries:
        expected = ends[entry.role == "mlp"][entry.slice]
        assert torch.allclose(found[entry.slice], expected, atol=1e-6), entry.name


@pytest.mark.parametrize("name", METHODS)
def test_the_same_problem_gives_the_same_weights(name, tasks):
    L = np.array([[0.2, 0.7, 0.4]])
    first, second = (
        MergeProblem(tiny.net_pool(), tasks, merge=METHOD[name]).evaluator.weights(L)
        for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_small_values(name):
    method = make_method(name)
    assert make_method(method.table) == method
    assert hash(method) == hash(pickle.loads(pickle.dumps(method)))
    assert copy.deepcopy(method) == method
    assert method.title in method.sentence
    assert name in METHODS
    for parameter, (low, high) in method.bounds.items():
        for value in (low, high, (low + high) / 2):
            assert getattr(method.at({parameter: value}), parameter) == value


@pytest.mark.parametrize("name", [n for n in METHODS if n not in (*TRANSFORMS, "average")])
def test_methods_without_gradient_say_so(name):
    problem = tiny.net_problem(merge=METHOD[name], objective="loss")
    with pytest.raises(ConfigurationError, match=f"{name!r} is not linear .* has no gradient"):
        problem.losses_and_grads(np.full(3, 0.3))


@pytest.mark.parametrize("name", [*TRANSFORMS, "average"])
@pytest.mark.parametrize("space", ["task-wise", "block-wise"])
def test_the_others_have_the_right_one(name, space):
    problem = tiny.net_problem(merge=METHOD[name], objective="loss", space=space)
    rng = np.random.default_rng(1)
    x = rng.uniform(0.2, 0.5, problem.n_var)
    _, dF = problem.evaluate(x[None], return_values_of=["F", "dF"])
    step = rng.normal(size=problem.n_var) * 3e-3
    ahead, behind = problem.evaluate(np.array([x + step, x - step]), return_values_of=["F"])
    assert (ahead - behind) / 2 == pytest.approx(dF[0] @ step, rel=0.02, abs=1e-5)


# ------------------------------------------------------------------ transforms on plain arrays


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_is_given_stays_as_it_is(name):
    given = make(random_rows())
    before = given.deltas.clone()
    after = make_method(name)(given)
    assert torch.equal(given.deltas, before)
    assert after.base is given.base
    assert after.names == given.names
    padding = torch.ones(given.layout.size, dtype=torch.bool)
    for entry in given.layout.entries:
        padding[entry.slice] = False
    assert not after.deltas[:, padding].any()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_half_precision_agrees_with_single(name):
    rows = random_rows().bfloat16().float()
    exact = make_method(name)(make(rows)).deltas
    found = make_method(name)(make(rows, dtype=torch.bfloat16)).deltas
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_one_expert_alone_and_one_that_did_not_change(name):
    rows = random_rows(2)
    rows[1] = 0
    alone = make_method(name)(make(rows[:1])).deltas
    assert torch.isfinite(alone).all()
    pair = make_method(name)(make(rows)).deltas
    assert torch.isfinite(pair).all()
    assert not pair[1].any()
    assert not make_method(name)(make(torch.zeros_like(rows))).deltas.any()
