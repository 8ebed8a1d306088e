"""Parameters of a merge method as decision variables."""

import json

import numpy as np
import pytest
import tiny
import torch

import moofusion
from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging import make_method, make_space, searched_space
from moofusion.problems import problem_spec
from moofusion.weights import ParameterLayout

SEARCH = {"method": "ties", "scope": "tensor", "search": {"density": [0.1, 0.6]}}
LAYOUT = ParameterLayout({"h.0.w": (2,), "h.1.w": (2,)})


@pytest.fixture
def problem():
    return tiny.net_problem(merge=SEARCH)


def test_the_parameter_is_the_last_variable(problem):
    assert problem.space.names == ("a", "b", "c", "ties.density")
    assert problem.n_var == 4
    assert (problem.xl[3], problem.xu[3]) == (0.1, 0.6)


@pytest.mark.parametrize("density", [0.1, 0.25, 0.6])
def test_a_candidate_is_the_merge_with_that_parameter(problem, density):
    x = np.array([0.5, 0.2, 0.9, density])
    fixed = tiny.net_problem(merge={"method": "ties", "scope": "tensor", "density": density})
    assert problem.record(x).measurements == fixed.record(x[:3]).measurements
    assert problem.record(x, split="test").measurements == (
        fixed.record(x[:3], split="test").measurements
    )


def test_values_are_rounded_so_that_few_are_prepared(problem):
    x = np.array([0.5, 0.2, 0.9, 0.25])
    problem.record(x)
    prepared = len(problem.evaluator._bound)
    for near in (0.2451, 0.2549):
        again = problem.record(np.append(x[:3], near))
        assert again.measurements == problem.record(x).measurements
    assert len(problem.evaluator._bound) == prepared
    problem.record(np.append(x[:3], 0.4))
    assert len(problem.evaluator._bound) == prepared + 1


def test_no_more_are_kept_than_memory_allows(problem, monkeypatch):
    monkeypatch.setattr("moofusion.problems.evaluator._BOUND_BYTES", 0)
    values = np.arange(0.1, 0.6, 0.05)
    first = [problem.record(np.append([0.4, 0.4, 0.4], v)).measurements for v in values]
    assert len(problem.evaluator._bound) == 3
    fresh = tiny.net_problem(merge=SEARCH)
    again = [fresh.record(np.append([0.4, 0.4, 0.4], v)).measurements for v in values[::-1]]
    assert again[::-1] == first


def test_any_space_can_be_extended():
    for kind in ("simplex", "block-wise", "depth-spline"):
        inner = make_space(kind, LAYOUT, ["a", "b"])
        method = make_method({"method": "breadcrumbs", "density": 0.3})
        space = searched_space(inner, method, ["density", "gamma"])
        assert space.n_var == inner.n_var + 2
        rows = np.array([[0.25, 0.75]])
        x = space.uniform(rows)
        assert np.array_equal(space.coefficients(x), inner.coefficients(inner.uniform(rows)))
        assert space.parameters(x) == [{"density": 0.3, "gamma": 0.01}]
        again = space.decision(space.coefficients(x))
        assert space.coefficients(again) == pytest.approx(space.coefficients(x))
        assert space.parameters(again) == space.parameters(x)
    assert searched_space(inner, method, []) is inner
    assert searched_space(inner, make_method("tsv"), {"rank": (0.1, 0.3)}).uniform(rows)[0, -1] == (
        pytest.approx(0.2)
    )


def test_every_algorithm_searches_it_and_exports_what_it_found(problem, tmp_path):
    result = moofusion.search(
        problem, "nsga2:pop_size=8", evaluations=24, seed=1, out=tmp_path / "run"
    )
    assert result.front.X.shape[1] == 4
    assert len(set(np.round(result.front.X[:, 3], 2))) >= 1
    assert "x:ties.density" in (tmp_path / "run" / "front.csv").read_text().splitlines()[0]
    result.export(tmp_path / "out", point=1, head="a")
    x = result.front.X[0]
    density = float(np.round(x[3], 2))
    recipe = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert (recipe["method"], recipe["density"]) == ("ties", density)
    from safetensors.torch import load_file

    state = load_file(tmp_path / "out" / "model.safetensors")
    vectors = make_method({"method": "ties", "scope": "tensor", "density": density})(
        problem.evaluator.pool.vectors
    )
    expected = vectors.base + torch.tensor(x[:3], dtype=torch.float32) @ vectors.deltas
    for entry in vectors.layout.entries:
        assert torch.allclose(state[entry.name].flatten(), expected[entry.slice], atol=1e-6)


def test_gradients_are_refused():
    problem = tiny.net_problem(merge=SEARCH, objective="loss")
    with pytest.raises(ConfigurationError, match=r"ties\.density: parameters .* have no gradient"):
        problem.losses_and_grads(np.full(4, 0.3))


def test_fingerprints_know_what_is_searched():
    other = SEARCH | {"search": {"density": [0.1, 0.5]}}
    fixed = {key: value for key, value in SEARCH.items() if key != "search"}
    prints = {tiny.net_problem(merge=m).fingerprint() for m in (SEARCH, other, fixed)}
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (["densty"], "parameter of merge method 'ties' to search 'densty'; did you mean 'density'"),
        (["method"], "to search 'method'"),
        ({"density": [0.5, 0.2]}, "must be lower < upper, got 0.5 and 0.2"),
        ({"density": [0.0, 0.5]}, r"bounds of density: density must be in \(0, 1\], got 0"),
    ],
)
def test_searches_that_make_no_sense(search, words):
    with pytest.raises(ConfigurationError, match=words):
        tiny.net_problem(merge={"method": "ties", "search": search})
    overrides = {"merge.method": "ties", "merge.search": search}
    with pytest.raises(ConfigurationError, match=f"vision4.toml with .* set: key 'merge'.*{words}"):
        problem_spec("vision4", overrides=overrides)


def test_methods_without_such_parameters_say_so():
    with pytest.raises(UnknownNameError, match="No parameter of merge method 'linear' to search"):
        tiny.net_problem(merge={"method": "linear", "search": ["density"]})


def test_a_problem_file_may_search():
    spec = problem_spec(
        "vision4", overrides={"merge.method": "ties", "merge.search": {"density": [0.2, 0.6]}}
    )
    assert spec.merge.search == {"density": (0.2, 0.6)}
    problem = moofusion.get_problem(
        "vision4", tasks=["animals"], experts=["animals", "objects"],
        merge={"method": "ties", "search": ["density"]},
    )  # fmt: skip
    assert problem.space.names == ("animals", "objects", "ties.density")
    assert np.isfinite(problem.evaluate(np.array([[0.5, 0.2, 0.3]]))).all()
