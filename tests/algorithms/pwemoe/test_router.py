"""Routers: their numbers, their start, their gradients, and what is left on disk."""

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from moofusion.algorithms import ParetoRouter
from moofusion.algorithms.preferences import preference_grid
from moofusion.errors import ConfigurationError, RunError, UnknownNameError
from moofusion.merging import Linear, make_space
from moofusion.weights.layout import ParameterLayout

MODULES = {"kind": "module-wise", "lower": -2.0, "upper": 3.0}


class _Blocks:
    """As much of a problem as a router asks for: K tasks, K experts, 12 transformer blocks."""

    title = "blocks"

    def __init__(self, K, space="module-wise", blocks=12, **options):
        parts = ("attn.q", "attn.k", "mlp.up", "mlp.down", "norm1")
        names = [f"layers.{i}.{part}.weight" for i in range(blocks) for part in parts]
        layout = ParameterLayout({"embed.weight": (4, 2)} | {name: (2, 2) for name in names})
        self.task_names = tuple(f"t{k}" for k in range(K))
        self.space = make_space(space, layout, self.task_names, **options)
        pool = type("Pool", (), {"layout": layout})
        self.evaluator = type(
            "Evaluator", (), {"pool": pool, "weights_fingerprint": "w", "method": Linear()}
        )


def _router(problem, seed=0, **options):
    return ParetoRouter(problem, rng=np.random.default_rng(seed), **options)


# ------------------------------------------------------------------ numbers of the paper


@pytest.mark.parametrize(("K", "each"), [(2, 22), (3, 45), (7, 217), (8, 280)])
def test_parameters_of_one_router_and_of_twelve_blocks(K, each):
    router = _router(_Blocks(K))
    assert len(router.names) == 12
    assert router.n_parameters == 12 * each == 12 * (4 * K**2 + 3 * K)
    assert _router(_Blocks(K, blocks=4)).n_parameters == 4 * each


def test_table_10_of_the_paper():
    assert [_router(_Blocks(K)).n_parameters for K in (2, 3, 8)] == [264, 540, 3360]


@pytest.mark.parametrize("space", ["module-wise", "tensor-wise", "block-wise"])
def test_the_number_of_routers_does_not_depend_on_the_space(space):
    options = {"select": "mlp"} if space == "block-wise" else {}
    router = _router(_Blocks(2, space, **options))
    assert len(router.names) == 12
    assert router.n_parameters == 264


def test_other_depths_of_the_network():
    assert _router(_Blocks(3), hidden_layers=0).n_parameters == 12 * (9 + 3)
    assert _router(_Blocks(3), hidden_layers=2).n_parameters == 12 * (45 + 6 * 6 + 6)
    assert _router(_Blocks(3), conditioned=False).n_parameters == 12 * 3


def test_grids_of_preferences():
    rng = np.random.default_rng(0)
    assert len(preference_grid(2, 11, rng=rng)) == 11
    assert len(preference_grid(3, 66, rng=rng)) == 66
    many = preference_grid(8, 66, rng=rng)
    assert (many[0] == 1 / 8).all()
    assert (many[1:9] == np.eye(8)).all()
    assert many.sum(axis=1) == pytest.approx(1)


# ------------------------------------------------------------------ which group has a router


def test_roles_have_routers_of_their_own():
    router = _router(_Blocks(2), routed="mlp+attention")
    assert len(router.names) == 24
    assert router.names[:2] == ("layers.0:attention", "layers.0:mlp")
    assert len(_router(_Blocks(2), routed="all").names) == 12 * 3 + 1


def test_groups_without_a_router_keep_the_static_coefficients():
    problem = _Blocks(2, static=(0.3, 0.6))
    router = _router(problem)
    router.theta = np.random.default_rng(1).normal(size=router.theta.shape)
    L = router.coefficients([0.2, 0.8])
    mlp = np.array(["mlp" in name for name in problem.space.partition.names])
    assert (L[~mlp] == [0.3, 0.6]).all()
    assert (np.abs(L[mlp] - [0.3, 0.6]) > 1e-3).all()
    up, down = (problem.space.partition.names.index(f"layers.3.mlp.{n}") for n in ("up", "down"))
    assert (L[up] == L[down]).all()


@pytest.mark.parametrize("space", ["task-wise", "block-wise"])
def test_a_space_that_is_too_coarse_says_which_to_use(space):
    with pytest.raises(ConfigurationError, match="is too coarse: it holds attention, mlp") as error:
        _router(_Blocks(2, space))
    assert "module-wise" in str(error.value)
    assert _router(_Blocks(2, space), routed="all").n_parameters


def test_spaces_without_free_rows_are_refused():
    for space in ("simplex", "depth-spline"):
        with pytest.raises(ConfigurationError, match="needs a space with one coefficient per"):
            _router(_Blocks(2, space))


def test_other_mistakes():
    with pytest.raises(UnknownNameError, match="routed part 'mpl'"):
        _router(_Blocks(2), routed="mpl")
    with pytest.raises(ConfigurationError, match="no group of the space"):
        _router(_Blocks(2, "block-wise", select="attention"))
    with pytest.raises(ConfigurationError, match="hidden_layers must be 0 or more"):
        _router(_Blocks(2), hidden_layers=-1)
    with pytest.raises(ConfigurationError, match="needs 2 numbers"):
        _router(_Blocks(2)).coefficients([1.0])


# ------------------------------------------------------------------ start and gradients


def _arithmetic(problem):
    row = np.full((problem.space.n_groups, problem.space.n_experts), 0.3)
    return problem.evaluator.weights(row)


@pytest.mark.parametrize("r", [(1, 0, 0), (0.2, 0.3, 0.5)])
def test_the_first_merge_is_task_arithmetic(r):
    problem = tiny.net_problem(space=MODULES)
    router = _router(problem)
    weights = problem.evaluator.weights(router.coefficients(r))
    difference = (weights - _arithmetic(problem)).abs().max()
    assert 0 < difference < 1e-3  # task vectors here are of size one, in the paper of 1e-3
    assert np.abs(router.coefficients(r) - 0.3).max() < 1e-3


def test_with_zero_init_it_is_exactly_that():
    problem = tiny.net_problem(space=MODULES)
    router = _router(problem, zero_init=True)
    weights = problem.evaluator.weights(router.coefficients([0.2, 0.3, 0.5]))
    assert (weights == _arithmetic(problem)).all()


@pytest.mark.parametrize("hidden", [0, 1, 2])
def test_the_networks_and_their_gradients_agree_with_torch(hidden, rng):
    """Against nn.Linear and autograd, one router at a time."""
    router = _router(_Blocks(3), hidden_layers=hidden)
    router.theta = rng.normal(size=router.theta.shape)
    r, dL = rng.dirichlet(np.ones(3)), rng.normal(size=(2, len(router.rows), 3))
    L, J = router.coefficients(r), router.pullback(r, dL)
    for number in (0, 5, 11):
        layers = []
        widths = [3, *[6] * hidden, 3]
        parts = router.network.split(router.theta)
        for i, (a, b) in enumerate(pairwise(widths), start=1):
            linear = nn.Linear(a, b).double()
            linear.load_state_dict({
                "weight": torch.tensor(parts[f"W{i}"][number]),
                "bias": torch.tensor(parts[f"b{i}"][number]),
            })  # fmt: skip
            layers += [linear, nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
        groups = np.flatnonzero(router.rows == number)
        found = model(torch.tensor(r))
        assert L[groups[0]] == pytest.approx(found.detach().numpy(), rel=1e-12)
        for loss in range(2):
            model.zero_grad()
            upstream = torch.tensor(dL[loss, groups].sum(axis=0))
            model(torch.tensor(r)).backward(upstream)
            mine = router.network.split(J[loss])
            for i, layer in enumerate(layers[::2], start=1):
                assert mine[f"W{i}"][number] == pytest.approx(layer.weight.grad.numpy(), rel=1e-10)
                assert mine[f"b{i}"][number] == pytest.approx(layer.bias.grad.numpy(), rel=1e-10)


def test_a_constant_ignores_the_preference(rng):
    router = _router(_Blocks(2), conditioned=False)
    router.theta = rng.normal(size=router.theta.shape)
    assert (router.coefficients([1, 0]) == router.coefficients([0.3, 0.7])).all()


def test_many_preferences_at_once(rng):
    router = _router(_Blocks(2))
    router.theta = rng.normal(size=router.theta.shape)
    R = rng.dirichlet(np.ones(2), 5)
    assert router.batch(R) == pytest.approx(np.array([router.coefficients(r) for r in R]))
    by_name = router.coefficients({"t1": 3, "t0": 1})
    assert (by_name == router.coefficients([0.25, 0.75])).all()


# ------------------------------------------------------------------ copies and disk


def test_copies_are_independent_and_can_be_shown(rng):
    router = _router(_Blocks(2))
    twin = copy.deepcopy(router)
    before = router.coefficients([0.5, 0.5])
    twin.theta += 1.0
    assert (router.coefficients([0.5, 0.5]) == before).all()
    assert (twin.coefficients([0.5, 0.5]) != before).any()
    assert repr(router) == (
        "ParetoRouter(12 routers, 264 parameters, routed='mlp', tasks=['t0', 't1'], "
        "experts=['t0', 't1'])"
    )


def test_a_saved_router_is_small_and_the_same(tmp_path, rng):
    problem = _Blocks(8)
    router = _router(problem, routed="mlp")
    router.theta = rng.normal(size=router.theta.shape)
    path = router.save(tmp_path / "deep" / "router.safetensors")
    assert path.stat().st_size < 40_000
    loaded = ParetoRouter.load(path, problem)
    r = rng.dirichlet(np.ones(8))
    assert (loaded.coefficients(r) == router.coefficients(r)).all()
    assert (loaded.tasks, loaded.experts) == (router.tasks, router.experts)
    assert repr(loaded) == repr(router)
    from safetensors import safe_open

    with safe_open(path, "numpy") as opened:
        described = json.loads(opened.metadata()["moofusion"])
        assert opened.get_tensor("W1").shape == (12, 16, 8)
    assert described["made_for"]["weights"] == "w"


@pytest.mark.parametrize(
    ("experts", "tasks", "message"),
    [
        (("a", "c", "b"), ("a", "b", "c"), r"its experts are \['a', 'b', 'c'\], in this order"),
        (("a", "b", "c"), ("b", "a", "c"), r"its tasks are \['a', 'b', 'c'\], in this order"),
    ],
)
def test_another_order_of_experts_or_tasks_is_noticed(tmp_path, experts, tasks, message):
    router = _router(tiny.net_problem(space=MODULES))
    path = router.save(tmp_path / "router.safetensors")
    other = tiny.net_problem(experts, tasks, space=MODULES)
    with pytest.raises(ConfigurationError, match=message):
        ParetoRouter.load(path, other)


def test_other_models_groups_or_static_coefficients_are_noticed(tmp_path):
    path = _router(tiny.net_problem(space=MODULES)).save(tmp_path / "router.safetensors")
    ParetoRouter.load(path, tiny.net_problem(space=MODULES))
    with pytest.raises(ConfigurationError, match="not the 24 of this space"):
        ParetoRouter.load(path, tiny.net_problem(space=MODULES | {"kind": "tensor-wise"}))
    with pytest.raises(ConfigurationError, match="its static are"):
        ParetoRouter.load(path, tiny.net_problem(space=MODULES | {"static": 0.5}))
    from moofusion.problems import MergeProblem
    from moofusion.weights import ModelPool

    pool = tiny.net_pool()
    moved = ModelPool(tiny.drift(pool.base, 99), pool.experts)
    other = MergeProblem(moved, tiny.net_tasks(pool), space=MODULES)
    with pytest.raises(ConfigurationError, match="the models differ"):
        ParetoRouter.load(path, other)


def test_files_that_are_no_routers(tmp_path):
    with pytest.raises(RunError, match=r"there is no pareto-router .*missing.safetensors"):
        ParetoRouter.load(tmp_path / "missing.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(RunError, match="cannot be read"):
        ParetoRouter.load(tmp_path / "text")
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(RunError, match="holds something else, not a pareto-router"):
        ParetoRouter.load(tmp_path / "other.safetensors")


# ------------------------------------------------------------------ export


def test_an_exported_checkpoint_is_the_dynamic_merge(vit_pool, vit_tasks, tmp_path, rng):
    from transformers import ViTForImageClassification

    from moofusion.problems import MergeProblem

    problem = MergeProblem(vit_pool, vit_tasks, space="module-wise")
    router = _router(problem)
    router.theta += rng.normal(scale=0.2, size=router.theta.shape)
    before = router.theta.copy()
    done = router.export("bars=0.7,rings=0.3", tmp_path / "merged")
    assert done.head == "bars"
    assert (router.theta == before).all()
    model = ViTForImageClassification.from_pretrained(tmp_path / "merged").eval()
    evaluator = problem.evaluator
    task = problem.tasks[1]
    L = router.coefficients({"bars": 0.7, "rings": 0.3})
    inputs, _ = task.data("test")
    evaluator.pool.model.weights.copy_(evaluator.weights(L))
    with torch.no_grad():
        mine, theirs = task.logits(evaluator.module(task), inputs), model(**inputs).logits
    assert torch.equal(mine, theirs)
    recipe = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert recipe["coefficients"] == L.tolist()
    assert recipe["chosen"] == "made for preference bars=0.7, rings=0.3"
    assert set(recipe["metrics"]) == {"search", "test"}
    assert "a trained Pareto router" in (tmp_path / "merged" / "README.md").read_text()


def test_a_router_without_models_cannot_export(tmp_path):
    router = _router(tiny.net_problem(space=MODULES))
    loaded = ParetoRouter.load(router.save(tmp_path / "router.safetensors"))
    assert loaded.coefficients([1, 1, 1]).shape == (len(router.rows), 3)
    with pytest.raises(ConfigurationError, match="give it the problem first"):
        loaded.export([1, 0, 0], tmp_path / "merged")
