"""Merge methods inside problems: measured, told apart, exported, overridden."""

import json

import numpy as np
import pytest
import tiny
import torch

import moofusion
from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging import Ties
from moofusion.problems import MergeProblem, problem_spec

TIES = {"method": "ties", "density": 0.3}


@pytest.fixture(scope="module")
def ties():
    return tiny.net_problem(merge=TIES)


def _flat_by_hand(problem, method, L):
    vectors = method(problem.evaluator.pool.vectors)
    return vectors.base + torch.as_tensor(L, dtype=torch.float32) @ vectors.deltas


def test_the_weights_measured_are_those_of_the_method(ties):
    L = np.array([0.5, 0.2, 0.9])
    expected = _flat_by_hand(ties, Ties(density=0.3), L)
    assert torch.allclose(ties.evaluator.weights(L[None]), expected, atol=1e-6)
    F = ties.evaluate(L[None])
    ties.evaluator.pool.model.weights.copy_(expected)
    for j, task in enumerate(ties.tasks):
        value = task.evaluate(ties.evaluator.module(task), "search").metrics["accuracy"]
        assert F[0, j] == pytest.approx(1 - value)


def test_a_method_may_be_a_name_a_table_or_an_object(ties):
    x = np.full((1, 3), 0.4)
    for merge in (TIES, Ties(density=0.3)):
        assert np.array_equal(tiny.net_problem(merge=merge).evaluate(x), ties.evaluate(x))
    named = tiny.net_problem(merge="ties")
    assert named.evaluator.method == Ties()


def test_gradients_go_through_the_rewritten_vectors():
    problem = tiny.net_problem(merge=TIES, objective="loss", space="block-wise")
    x = np.full(problem.n_var, 0.3)
    _, dF = problem.evaluate(x[None], return_values_of=["F", "dF"])
    rng = np.random.default_rng(0)
    for _ in range(3):
        step = rng.normal(size=problem.n_var) * 1e-2
        ahead, behind = problem.evaluate(np.array([x + step, x - step]), return_values_of=["F"])
        assert (ahead - behind) / 2 == pytest.approx(dF[0] @ step, rel=0.05, abs=1e-5)


def test_anchors_are_the_real_models_whatever_the_method(ties):
    plain = tiny.net_problem()
    assert np.array_equal(ties.anchors().F, plain.anchors().F)
    assert np.array_equal(ties.anchors("test").F, plain.anchors("test").F)


def test_fingerprints_tell_methods_apart(ties):
    prints = {
        tiny.net_problem(merge=merge).fingerprint()
        for merge in ("linear", "ties", TIES, TIES | {"scope": "tensor"})
    }
    assert len(prints) == 4
    assert ties.fingerprint() in prints
    assert tiny.net_problem().fingerprint() in prints


def test_a_uniform_merge_of_any_method_can_be_measured(ties):
    plain = tiny.net_problem(space="block-wise")
    for problem in (ties, plain):
        for split in ("search", "test"):
            (found,) = problem.measured_uniform(np.full(3, 0.7), split=split, method=TIES)
            twin = ties.record(np.full(3, 0.7), split=split)
            assert found.measurements == twin.measurements
    with pytest.raises(UnknownNameError, match="merge method 'tie'"):
        plain.measured_uniform(np.ones(3), method="tie")


def test_an_export_holds_the_merged_weights_and_says_how(tmp_path):
    problem = tiny.net_problem(merge=TIES)
    result = moofusion.search(problem, "random", evaluations=5, seed=1)
    result.export(tmp_path / "out", point=1, head="a")
    from safetensors.torch import load_file

    state = load_file(tmp_path / "out" / "model.safetensors")
    L = problem.space.coefficients(result.front.X[:1])[0]
    expected = _flat_by_hand(problem, Ties(density=0.3), L[0])
    for entry in problem.evaluator.pool.layout.entries:
        merged = expected[entry.slice].view(entry.shape)
        assert torch.allclose(state[entry.name], merged, atol=1e-6)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "TIES (Yadav et al. 2023, arXiv:2306.01708; density 0.3, scope model)" in card
    recipe = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert (recipe["method"], recipe["density"]) == ("ties", 0.3)


def test_a_method_from_the_command_line_or_python():
    spec = problem_spec("vision4", overrides={"merge.method": "ties", "merge.density": 0.4})
    assert spec.merge.model_dump(exclude_none=True) == {"method": "ties", "density": 0.4}
    assert problem_spec("vision4").merge.method == "linear"
    tasks = ["animals", "objects"]
    problem = moofusion.get_problem("vision4", tasks=tasks, merge="ties")
    assert problem.evaluator.method == Ties()
    assert problem.spec.merge.method == "ties"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"merge.method": "tie"}, ["key 'merge'", "unknown merge method", "did you mean 'ties'"]),
        ({"merge.densty": 0.2}, ["unknown key 'merge.densty'", "did you mean 'density'"]),
        ({"merge.density": 0.2}, ["parameter of merge method 'linear'", "'density'"]),
        ({"merge.method": "ties", "merge.density": 3}, ["(0, 1]", "got 3"]),
        ({"merge.method": "ties", "merge.density": "x"}, ["key 'merge.density'", "got 'x'"]),
    ],
)
def test_wrong_tables_are_explained(overrides, words):
    with pytest.raises(ConfigurationError) as caught:
        problem_spec("vision4", overrides=overrides)
    for word in ["vision4.toml", *words]:
        assert word in str(caught.value), f"{word!r} is missing from: {caught.value}"


def test_an_unknown_method_is_refused_before_models_are_read():
    pool = tiny.net_pool()
    with pytest.raises(UnknownNameError, match="merge method"):
        MergeProblem(pool, tiny.net_tasks(pool), merge="nothing")
