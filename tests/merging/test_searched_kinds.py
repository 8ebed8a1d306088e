"""Whole numbers, choices and logarithms among the searched parameters of a merge method."""

import csv
import json

import numpy as np
import pytest
import tiny
import torch
from pymoo.core.repair import NoRepair
from pymoo.optimize import minimize
from safetensors.torch import load_file

import moofusion
from moofusion.algorithms import CoefficientSampling, get_algorithm
from moofusion.comparison import Study
from moofusion.comparison.pooled import pooled_result
from moofusion.comparison.report.heatmap import plot_coefficients
from moofusion.comparison.report.payload import section_data
from moofusion.comparison.report.scores import sections
from moofusion.comparison.result import SearchResult
from moofusion.errors import ConfigurationError
from moofusion.merging import (
    METHODS,
    Choice,
    Integer,
    Real,
    SearchedSpace,
    ShareOrCount,
    make_method,
    make_space,
    searched_space,
)
from moofusion.merging.methods.ranges import range_from
from moofusion.problems import problem_spec
from moofusion.testing import SpaceContract
from moofusion.weights import ParameterLayout

MIXED = {
    "method": "dare",
    "search": {"density": [0.3, 0.9], "seed": [0, 4], "elect": [False, True]},
}
LAYOUT = ParameterLayout({"h.0.w": (2,), "h.1.w": (2,)})
EVERY = [(name, parameter) for name, m in METHODS.items() for parameter in m.searchable]


@pytest.fixture
def problem():
    return tiny.net_problem(merge=MIXED)


class TestMixedSpace(SpaceContract):
    differentiable = False

    @pytest.fixture
    def space(self):
        inner = make_space("block-wise", LAYOUT, ["a", "b"])
        return searched_space(inner, make_method("dare"), MIXED["search"])


# ------------------------------------------------------------------ ranges


@pytest.mark.parametrize(
    "values",
    [Integer(-2, 5), Choice(("a", "b", "c")), Choice((False, True)), Choice((True, False))],
    ids=str,
)
def test_every_value_has_an_equal_part_of_the_variable(values):
    cells = np.linspace(values.xl, values.xu, 24001)[:-1] + 1e-9
    found, counts = np.unique([values.value(x) for x in cells], return_counts=True)
    assert np.ptp(counts) <= 1
    expected = range(-2, 6) if isinstance(values, Integer) else values.options
    assert set(found.tolist()) == set(expected)
    for value in expected:
        assert values.value(values.variable(value)) == value


def test_logarithms_reach_every_power_of_ten_alike():
    values = Real(1e-8, 1e-4, log=True)
    assert [values.value(x) for x in (-8, -6, -4)] == [1e-8, 1e-6, 1e-4]
    assert values.value(-5.98) == values.value(-6.02) == 1e-6
    assert values.variable(1e-6) == pytest.approx(-6)
    assert values.middle == 1e-6


@pytest.mark.parametrize(("name", "parameter"), EVERY, ids=map("-".join, EVERY))
def test_ranges_survive_json_and_hold_what_they_say(name, parameter):
    values = METHODS[name].searchable[parameter]
    twin = range_from(json.loads(json.dumps(values.table)))
    for x in np.linspace(values.xl, values.xu, 7):
        value = values.value(x)
        assert type(twin.value(x)) is type(value)
        assert twin.value(x) == value
        assert getattr(make_method(name).at({parameter: value}), parameter) == value


def test_a_rank_is_a_share_or_a_number():
    rank = ShareOrCount(0.02, 1.0)
    assert rank.over("rank", [0.1, 1]) == Real(0.1, 1.0)
    assert rank.over("rank", [2, 8]) == Integer(2, 8)
    matrix = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(1))
    for r in (2, 4, 6, 20):
        found = make_method({"method": "low-rank", "rank": r}).rewrite(
            matrix.clone(), name="w", experts=("a", "b")
        )
        assert torch.linalg.matrix_rank(found).tolist() == [min(r, 6)] * 2
    share, number = (make_method({"method": "tsv", "rank": r}) for r in (0.5, 3))
    pair = [m.rewrite(matrix.clone(), name="w", experts=("a", "b")) for m in (share, number)]
    assert torch.equal(*pair)


# ------------------------------------------------------------------ in a problem


@pytest.mark.parametrize(
    ("x", "table"),
    [
        ([0.447, -0.5, 0.49], {"density": 0.45, "seed": 0, "elect": False}),
        ([0.9, 2.6, 0.51], {"density": 0.9, "seed": 3, "elect": True}),
        ([0.3, 4.5, 1.5], {"density": 0.3, "seed": 4, "elect": True}),
    ],
)
def test_a_candidate_is_the_merge_with_these_values(problem, x, table):
    row = np.array([0.5, 0.2, 0.9])
    assert problem.space.parameters(np.append(row, x)) == [table]
    fixed = tiny.net_problem(merge={"method": "dare"} | table)
    assert problem.record(np.append(row, x)).measurements == fixed.record(row).measurements


def test_equal_values_are_the_same_model_and_paid_once(problem):
    row = np.array([0.5, 0.2, 0.9])
    near = [np.append(row, x) for x in ([0.45, 1.0, 0.0], [0.4502, 0.7, -0.4], [0.4498, 1.4, 0.3])]
    pop = [problem.evaluate(x[None], return_values_of=["F", "cost"]) for x in near]
    assert [float(cost[0]) for _, cost in pop] == [float(problem.record(near[0]).cost), 0.0, 0.0]
    assert all(np.array_equal(F, pop[0][0]) for F, _ in pop)
    assert problem.counter.merges == 1
    other = problem.record(np.append(row, [0.45, 2.0, 0.0]))
    assert problem.counter.merges == 2
    assert other.measurements != problem.record(near[0]).measurements


def test_every_kind_of_start_varies_the_parameters(problem):
    for name in ("random:batch_size=20", "nsga2:pop_size=20", "map"):
        seen = []
        problem.observers.append(lambda x, *_, seen=seen: seen.append(x))
        moofusion.search(problem, name, evaluations=20, seed=1)
        problem.observers.clear()
        found = problem.space.parameters(np.array(seen))
        assert len({p["density"] for p in found}) > 3, name
        assert {p["elect"] for p in found} == {False, True}, name
        assert len({p["seed"] for p in found}) > 2, name


def test_coefficients_of_the_start_are_those_of_a_plain_problem(problem):
    draws = [
        CoefficientSampling().do(p, 10, random_state=np.random.default_rng(0)).get("X")
        for p in (problem, tiny.net_problem())
    ]
    assert np.array_equal(draws[0][:, :3], draws[1])


@pytest.mark.parametrize("name", ["nsga2:pop_size=8", "nsga3:pop_size=10"])
def test_evolution_breeds_no_model_twice(name):
    merge = {"method": "dare", "search": {"seed": [0, 1], "elect": [False, True]}}
    problem = tiny.net_problem(("a", "b"), merge=merge)
    counts = []
    for repaired in (True, False):
        algorithm = get_algorithm(name, problem)
        if not repaired:
            for part in (algorithm, algorithm.initialization, algorithm.mating):
                part.repair = NoRepair()
        seen = []
        problem.observers.append(lambda x, *_, seen=seen: seen.append(x))
        minimize(problem, algorithm, ("n_eval", 120), seed=1)
        problem.observers.clear()
        models = problem.space.canonical(np.array(seen))
        assert repaired is np.array_equal(models, np.array(seen))
        counts.append(len(models) - len(np.unique(models, axis=0)))
    assert counts[0] < counts[1]


def test_a_mixed_search_is_saved_read_back_and_exported(problem, tmp_path):
    result = moofusion.search(
        problem, "nsga2:pop_size=8", evaluations=24, seed=1, out=tmp_path / "run"
    )
    front = result.front
    assert np.array_equal(problem.space.canonical(front.X), front.X)
    assert set(front.parameters) == {"dare.density", "dare.seed", "dare.elect"}
    for i, values in enumerate(problem.space.parameters(front.X)):
        assert {f"dare.{k}": v for k, v in values.items()} == {
            k: v[i] for k, v in front.parameters.items()
        }
    with (tmp_path / "run" / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["dare.seed"]) for row in rows] == list(front.parameters["dare.seed"])
    assert {row["dare.elect"] for row in rows} <= {"True", "False"}
    again = SearchResult.load(tmp_path / "run").front
    assert again.parameters == front.parameters
    assert np.array_equal(again.X, front.X)
    assert [type(v) for v in again.parameters["dare.seed"]] == [int] * len(front)

    result.export(tmp_path / "out", point=1, head="a")
    values = problem.space.parameters(front.X[:1])[0]
    recipe = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert {key: recipe[key] for key in values} == values
    state = load_file(tmp_path / "out" / "model.safetensors")
    vectors = make_method({"method": "dare"} | values)(problem.evaluator.pool.vectors)
    expected = vectors.base + torch.tensor(front.X[0, :3], dtype=torch.float32) @ vectors.deltas
    for entry in vectors.layout.entries:
        assert torch.allclose(state[entry.name].flatten(), expected[entry.slice], atol=1e-6)


def test_a_resumed_mixed_search_is_the_same(problem, tmp_path):
    whole = moofusion.search(problem, "nsga2:pop_size=6", evaluations=18, seed=2)

    def stop(x, evaluation, cached, rows=[]):  # noqa: B006
        rows.append(x)
        if len(rows) == 9:
            raise KeyboardInterrupt

    cut, fresh = tiny.net_problem(merge=MIXED), tiny.net_problem(merge=MIXED)
    cut.observers.append(stop)
    run = {"evaluations": 18, "seed": 2, "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        moofusion.search(cut, "nsga2:pop_size=6", **run)
    again = moofusion.search(fresh, "nsga2:pop_size=6", **run, resume=True)
    assert np.array_equal(again.front.X, whole.front.X)
    assert again.front.parameters == whole.front.parameters
    assert fresh.counter.merges < problem.counter.merges


def test_a_study_knows_the_names(tmp_path):
    merge = {"method": "slerp", "search": ["of", "norms"]}
    study = Study(
        {"mixed": tiny.net_problem(merge=merge)}, ["random"], seeds=[1], evaluations=12,
        store=tmp_path / "study.db",
    )  # fmt: skip
    study.run(threads=1)
    front = pooled_result(study.results()).front
    assert set(front.parameters["slerp.of"]) <= {"weights", "task-vectors"}
    assert set(front.parameters["slerp.norms"]) <= {"interpolated", "own"}
    assert "slerp.of" in front.table().columns

    (section,) = sections(study.results())
    figure = plot_coefficients(section, section.front())
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert labels[-2:] == [
        "slerp.of (weights, task-vectors)",
        "slerp.norms (interpolated, own)",
    ]
    drawn = figure.axes[1].images[0].get_array()
    assert set(np.unique(drawn[:, 3:])) <= {0.25, 0.75}
    algorithms = section_data(section, "study.db")["algorithms"]
    models = [model for algorithm in algorithms for model in algorithm["models"]]
    assert models
    for model in models:
        x = np.array(model["x"])
        assert model["parameters"] == {
            f"slerp.{name}": value
            for name, value in tiny.net_problem(merge=merge).space.parameters(x)[0].items()
        }


def test_problems_that_search_other_values_are_told_apart():
    searches = [
        ["density"],
        ["density", "elect"],
        {"density": [0.05, 1.0], "elect": [True, False]},
        {"density": [0.05, 1.0], "seed": [0, 1]},
    ]
    prints = {
        tiny.net_problem(merge={"method": "dare", "search": s}).fingerprint() for s in searches
    }
    assert len(prints) == 4
    assert repr(SearchedSpace(
        make_space("task-wise", LAYOUT, ["a"]), make_method("ties"), {"density": Real(0.1, 0.5)}
    )).endswith("ties.density)")  # fmt: skip


def test_own_values_are_where_soups_stay(problem):
    x = problem.space.uniform(np.full((1, 3), 0.4))
    assert problem.space.parameters(x) == [{"density": 0.5, "seed": 0, "elect": False}]


# ------------------------------------------------------------------ what is written wrongly


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"seed": [0, 4.5]}, "bounds of merge parameter 'seed' must be whole numbers, got 0 and 4"),
        ({"seed": [3, 3]}, "must be lower < upper, got 3 and 3"),
        ({"seed": [-1, 3]}, "bounds of seed: seed must be a whole number from 0 up, got -1"),
        ({"seed": [1, 2, 3]}, "'seed' is searched between two whole numbers, such as .0, 9."),
        ({"seed": ["a", "b"]}, r"between two whole numbers, such as \[0, 9\]; got \[a, b\]"),
        ({"density": [False, True]}, "'density' is searched between two numbers"),
        ({"elect": [0, 1]}, r"'elect' is searched among \[false, true\]; got \[0, 1\]"),
        ({"elect": [True]}, r"two or more different options of \[false, true\]; got \[true\]"),
        ({"elect": [True, True]}, "two or more different options"),
    ],
)
def test_bounds_and_options_that_make_no_sense(search, words):
    with pytest.raises(ConfigurationError, match=words):
        tiny.net_problem(merge={"method": "dare", "search": search})
    with pytest.raises(ConfigurationError, match=f"vision4.toml with .* set: key 'merge'.*{words}"):
        problem_spec("vision4", overrides={"merge.method": "dare", "merge.search": search})


@pytest.mark.parametrize(
    ("method", "search", "words"),
    [
        ("ties", {"scope": ["model", "layer"]}, r"among \[model, tensor\]; got \[model, layer\]"),
        ("low-rank", {"rank": [0.5, 8]}, r"two shares in \(0, 1\], or two whole numbers from 2 up"),
        ("low-rank", {"rank": [2.5, 8]}, "must be whole numbers, got 2.5 and 8"),
        ("fisher", {"floor": [0, 1e-3]}, "searched by its logarithm, must be positive, got 0"),
        ("fisher", ["samples"], "to search 'samples'"),
    ],
)
def test_each_kind_says_what_it_takes(method, search, words):
    with pytest.raises(ConfigurationError, match=words):
        tiny.net_problem(merge={"method": method, "search": search})


def test_the_command_line_may_name_options():
    from moofusion.cli.options import override

    key, value = override('merge.search={scope=["tensor","model"], density=[0.2, 0.6]}')
    spec = problem_spec("vision4", overrides={"merge.method": "ties", key: value})
    assert spec.merge.search == {"scope": ("tensor", "model"), "density": (0.2, 0.6)}
    again = type(spec).model_validate(json.loads(spec.model_dump_json()))
    assert again.merge == spec.merge
