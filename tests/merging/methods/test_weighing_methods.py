"""Average, spherical, Fisher and RegMean: closed forms, optimality, and what they measure."""

import numpy as np
import pytest
import tiny
import torch
from deltas import make, random_rows
from torch.nn import functional

from moofusion.errors import ConfigurationError, DataError
from moofusion.merging import Fisher, RegMean, Slerp, make_method
from moofusion.merging.methods.sparse import seeded
from moofusion.merging.methods.spherical import spherical_mean
from moofusion.problems import MergeProblem
from moofusion.problems.statistics import _MEASURED
from moofusion.tasks import FunctionTask, Task, TensorClassification
from moofusion.weights import ParameterLayout, TaskVectors

LAYOUT = ParameterLayout({"w": (4, 6), "b": (4,)})
STATISTICS = ["fisher", "regmean"]
L = np.array([[0.2, 0.7, 0.4]])
W = L[0] / L.sum()


@pytest.fixture(autouse=True)
def nothing_is_known():
    _MEASURED.clear()


def models(K=3, seed=5, layout=LAYOUT):
    generator = torch.Generator().manual_seed(seed)
    base, *experts = torch.randn(K + 1, layout.size, generator=generator)
    return TaskVectors.build(layout, list("abcdef"[:K]), base, experts)


def merged(method, vectors, coefficients=L, statistics=None):
    partition = vectors.layout.partition("model")
    static = np.zeros(vectors.n_experts)
    merge = method.bind(vectors, partition, static=static, statistics=statistics)
    return merge(coefficients, out=torch.full((vectors.layout.size,), float("nan")))


def tensors(flat, layout=LAYOUT):
    return {e.name: flat[e.slice].double().numpy().reshape(e.shape) for e in layout.entries}


def experts(vectors):
    return [tensors(vectors.expert(k), vectors.layout) for k in range(vectors.n_experts)]


# ------------------------------------------------------------------ average


def test_the_average_is_that_of_the_experts_and_the_base_takes_no_part():
    vectors = models()
    found = tensors(merged(make_method("average"), vectors))
    for name, value in found.items():
        expected = sum(w * e[name] for w, e in zip(W, experts(vectors), strict=True))
        assert np.allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("method", [make_method("average"), Slerp()], ids=["average", "slerp"])
def test_coefficients_count_relative_to_each_other(method):
    vectors = models()
    plain = merged(method, vectors)
    assert torch.allclose(merged(method, vectors, 3 * L), plain, atol=1e-6)
    zeros, ones = (merged(method, vectors, np.full((1, 3), v)) for v in (0.0, 1.0))
    assert torch.allclose(zeros, ones, atol=1e-6)
    with pytest.raises(ConfigurationError, match=r"must be 0 or more; got -0\.1"):
        merged(method, vectors, np.array([[0.2, -0.1, 0.5]]))


# ------------------------------------------------------------------ spherical


def test_two_experts_are_joined_by_the_great_circle():
    vectors = models(2)
    t = 0.3
    found = tensors(merged(Slerp(), vectors, np.array([[1 - t, t]])))
    a, b = experts(vectors)
    for name, value in found.items():
        p, q = a[name].ravel(), b[name].ravel()
        lengths = np.linalg.norm(p), np.linalg.norm(q)
        p, q = p / lengths[0], q / lengths[1]
        angle = np.arccos(p @ q)
        point = (np.sin((1 - t) * angle) * p + np.sin(t * angle) * q) / np.sin(angle)
        expected = point * ((1 - t) * lengths[0] + t * lengths[1])
        assert np.allclose(value.ravel(), expected, atol=1e-5)


@pytest.mark.parametrize("noise", [0.01, 1.0], ids=["line", "arc"])
def test_own_norms_are_the_formula_of_mergekit(noise):
    """Its slerp applies the factors of the unit vectors to the tensors, or joins by a line."""
    vectors, t = models(2), 0.3
    vectors.deltas[1] = 3 * (vectors.base + vectors.deltas[0]) - vectors.base
    vectors.deltas[1] += noise * vectors.deltas[1].roll(7)
    shifted = TaskVectors.build(
        LAYOUT, vectors.names, vectors.base, [vectors.base + d for d in vectors.deltas]
    )
    found = tensors(merged(Slerp(norms="own"), shifted, np.array([[1 - t, t]])))
    a, b = experts(shifted)
    for name, value in found.items():
        p, q = a[name].astype(float), b[name].astype(float)
        cosine = np.sum(p * q) / np.linalg.norm(p) / np.linalg.norm(q)
        assert (cosine > 0.9995) == (noise < 0.1)
        angle = np.arccos(cosine)
        factors = np.array([np.sin((1 - t) * angle), np.sin(t * angle)]) / np.sin(angle)
        if noise < 0.1:
            factors = np.array([1 - t, t])
        assert np.allclose(value, factors[0] * p + factors[1] * q, atol=1e-5)


def test_the_mean_of_more_is_where_their_pulls_cancel():
    vectors = models(3)
    found = tensors(merged(Slerp(), vectors))
    for name, value in found.items():
        u = value.ravel() / np.linalg.norm(value)
        pull = np.zeros_like(u)
        for w, expert in zip(W, experts(vectors), strict=True):
            v = expert[name].ravel() / np.linalg.norm(expert[name])
            angle = np.arccos(v @ u)
            pull += w * angle / np.sin(angle) * (v - (v @ u) * u)
        assert np.linalg.norm(pull) < 1e-6
        norms = [np.linalg.norm(e[name]) for e in experts(vectors)]
        assert np.linalg.norm(value) == pytest.approx(W @ norms, rel=1e-5)


def test_task_vectors_may_be_the_points():
    vectors = make(random_rows(3, layout=LAYOUT), layout=LAYOUT)
    shifted = TaskVectors(
        LAYOUT, vectors.names, torch.ones(LAYOUT.size), vectors.deltas, vectors.residue
    )
    around_zero = merged(Slerp(), vectors)
    found = merged(Slerp(of="task-vectors"), shifted)
    for entry in LAYOUT.entries:
        assert torch.allclose(found[entry.slice], 1 + around_zero[entry.slice], atol=1e-6)


def test_parallel_opposite_and_missing_vectors():
    parallel = np.outer([1.0, 2.0], [1.0, 2.0])
    assert spherical_mean(parallel, np.array([0.5, 0.5])) == pytest.approx([0.75, 0.375])
    opposite = np.outer([1.0, -1.0], [1.0, -1.0])
    assert np.isfinite(spherical_mean(opposite, np.array([0.6, 0.4]))).all()
    assert np.isfinite(spherical_mean(opposite, np.array([0.5, 0.5]))).all()
    missing = np.diag([1.0, 0.0])
    assert spherical_mean(missing, np.array([0.25, 0.75])).tolist() == [0.25, 0.75]


# ------------------------------------------------------------------ Fisher


class Given:
    """Statistics that are written down instead of measured."""

    def __init__(self, fisher=None, grams=None):
        self._fisher, self._grams = fisher, grams

    def fisher(self, samples, seed):
        return self._fisher

    def grams(self, samples, seed):
        return self._grams


def test_entries_are_weighed_by_their_information():
    vectors = models()
    information = torch.rand(3, LAYOUT.size, generator=torch.Generator().manual_seed(1))
    found = merged(Fisher(floor=1e-12), vectors, statistics=Given(information)).numpy()
    F = information.double().numpy()
    F /= np.linalg.norm(F, axis=1, keepdims=True)
    theta = np.array([vectors.expert(k).double().numpy() for k in range(3)])
    expected = (W[:, None] * F * theta).sum(0) / (W[:, None] * F).sum(0)
    assert np.allclose(found, expected, atol=1e-6)


def test_what_matters_to_one_expert_alone_is_taken_from_it():
    vectors = models()
    information = torch.zeros(3, LAYOUT.size)
    information[1, :10] = 1.0
    found = merged(Fisher(), vectors, statistics=Given(information))
    assert torch.allclose(found[:10], vectors.expert(1)[:10], atol=1e-4)
    average = merged(make_method("average"), vectors)
    assert torch.allclose(found[10:28], average[10:28], atol=1e-6)


def test_the_information_is_the_mean_squared_gradient_of_drawn_labels():
    problem = tiny.net_problem(merge={"method": "fisher", "samples": 25, "seed": 4})
    evaluator = problem.evaluator
    found = evaluator.statistics.fisher(25, 4)
    assert evaluator.counter.backward == 3 * 25
    for k, (name, task) in enumerate(zip("abc", problem.tasks, strict=True)):
        module = tiny.net_pool().experts[name]
        module.requires_grad_(True)
        rows = np.sort(np.random.default_rng(4).permutation(60)[:25])
        generator = seeded(4, name, name)
        inputs, _ = task.data("train")
        squares = {key: torch.zeros_like(p) for key, p in module.named_parameters()}
        for row in rows:
            scores = module(inputs["input"][row : row + 1])
            label = torch.multinomial(scores.softmax(1), 1, generator=generator)[0]
            module.zero_grad()
            functional.cross_entropy(scores, label).backward()
            for key, p in module.named_parameters():
                squares[key] += p.grad**2 / 25
        for entry in evaluator.pool.layout.entries:
            expected = squares[entry.name].flatten()
            assert torch.allclose(found[k, entry.slice], expected, rtol=1e-3, atol=1e-8)


def test_statistics_are_measured_once_and_only_when_needed():
    problem = tiny.net_problem(merge={"method": "fisher", "samples": 10})
    assert problem.counter.backward == 0
    problem.evaluate(np.array([[0.2, 0.3, 0.4], [0.5, 0.1, 0.1]]))
    problem.evaluate(np.array([[0.9, 0.3, 0.4]]))
    assert problem.counter.backward == 30


@pytest.mark.parametrize("name", STATISTICS)
def test_other_problems_with_the_same_models_and_data_measure_nothing(name):
    merge = {"method": name, "samples": 12}
    x = np.array([[0.2, 0.3, 0.4]])
    first, again, other = (
        tiny.net_problem(merge=merge),
        tiny.net_problem(merge=merge),
        tiny.net_problem(merge=merge, space="block-wise"),
    )
    F = first.evaluate(x)
    cost = first.counter.cost
    measured = 36 * (3 if name == "fisher" else 1)  # beside the candidate itself
    assert cost == measured + 3 * 48
    assert np.array_equal(again.evaluate(x), F)
    assert np.array_equal(other.evaluate(np.tile(x, 5)), F)
    assert again.counter.cost == other.counter.cost == cost - measured


def _changed(what):
    """The toy problem with one thing changed, as pool and tasks."""
    pool = tiny.net_pool()
    tasks = tiny.net_tasks(pool)
    if what == "expert":
        tiny.drift(pool.experts["b"], 5, 1e-3)
    if what == "base":
        tiny.drift(pool.base, 5, 1e-3)
    if what == "data":
        inputs, labels = tasks[1].data("train")
        data = {s: (tasks[1].data(s)[0]["input"], tasks[1].data(s)[1]) for s in ("train", "search")}
        data["train"] = (inputs["input"] + 1e-3, labels)
        tasks[1] = TensorClassification("b", data, classes=3)
    return pool, tasks


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("what", ["nothing", "expert", "base", "data", "samples", "seed", "silent"])
def test_what_changed_is_measured_again(name, what, monkeypatch):
    merge = {"method": name, "samples": 12}
    x = np.array([[0.2, 0.3, 0.4]])
    if what == "silent":  # a task that does not tell what its data are
        monkeypatch.setattr(TensorClassification, "fingerprint", Task.fingerprint)
    tiny.net_problem(merge=merge).evaluate(x)
    changes = {"samples": {"samples": 13}, "seed": {"seed": 1}}.get(what, {})
    pool, tasks = _changed(what)
    problem = MergeProblem(pool, tasks, merge=merge | changes, device="cpu")
    problem.evaluate(x)
    assert (problem.counter.cost == 3 * 48) is (what == "nothing")


def test_no_more_statistics_are_kept_than_memory_allows(monkeypatch):
    monkeypatch.setattr("moofusion.problems.statistics._KEPT_BYTES", 10)
    for _ in range(2):
        problem = tiny.net_problem(merge={"method": "fisher", "samples": 5})
        problem.evaluate(np.array([[0.2, 0.3, 0.4]]))
        assert problem.counter.backward == 15
    assert not _MEASURED._found


def test_an_expert_without_data_is_named():
    for merge in ("fisher", "regmean"):
        problem = tiny.net_problem(tasks=["a", "b"], merge=merge)
        with pytest.raises(ConfigurationError, match="no task uses the head of expert 'c'"):
            problem.evaluate(np.full((1, 3), 0.3))
    pool = tiny.net_pool(("a",))
    task = FunctionTask("a", lambda module: 0.0)
    problem = MergeProblem(pool, [task], merge="regmean")
    with pytest.raises(DataError, match="'a' was built without a 'train' split"):
        problem.evaluate(np.full((1, 1), 0.3))


def test_methods_that_measure_cannot_be_used_without_a_problem():
    with pytest.raises(ConfigurationError, match="use it in a MergeProblem"):
        merged(Fisher(), models())


# ------------------------------------------------------------------ RegMean


def _inputs(K=3, n=50):
    rng = np.random.default_rng(2)
    return [rng.normal(size=(n, 6)) @ rng.normal(size=(6, 6)) for _ in range(K)]


@pytest.mark.parametrize("transposed", [False, True])
def test_outputs_are_those_of_the_experts_as_nearly_as_possible(transposed):
    layout = ParameterLayout({"w": (6, 4) if transposed else (4, 6), "b": (4,)})
    vectors = models(layout=layout)
    X = _inputs()
    grams = torch.tensor(np.array([x.T @ x / len(x) for x in X]))
    statistics = Given(grams={"w": (grams, transposed)})
    found = tensors(merged(RegMean(alpha=1.0), vectors, statistics=statistics), layout)
    each = experts(vectors)
    columns = [e["w"] if transposed else e["w"].T for e in each]
    left = np.vstack([np.sqrt(w) * x for w, x in zip(W, X, strict=True)])
    right = np.vstack([np.sqrt(w) * x @ c for w, x, c in zip(W, X, columns, strict=True)])
    expected = np.linalg.lstsq(left, right, rcond=None)[0]
    assert np.allclose(found["w"] if transposed else found["w"].T, expected, atol=1e-4)
    assert np.allclose(found["b"], sum(w * e["b"] for w, e in zip(W, each, strict=True)), atol=1e-6)


def test_alpha_shrinks_towards_a_mean_weighed_by_the_diagonal():
    vectors = models()
    grams = torch.tensor(np.array([x.T @ x / len(x) for x in _inputs()]))
    found = tensors(
        merged(RegMean(alpha=0.0), vectors, statistics=Given(grams={"w": (grams, False)}))
    )
    d = W[:, None] * grams.diagonal(dim1=1, dim2=2).numpy()
    expected = sum(d[k] * e["w"] for k, e in enumerate(experts(vectors))) / d.sum(0)
    assert np.allclose(found["w"], expected, atol=1e-5)


def test_inputs_are_those_of_the_expert_on_its_own_training_data():
    problem = tiny.net_problem(merge="regmean", objective="loss")
    evaluator = problem.evaluator
    found = evaluator.statistics.grams(40, 1)
    assert set(found) == {
        "embed.weight", "head.weight",
        *(f"layers.{i}.{part}.weight" for i in range(3) for part in ("attn", "mlp")),
    }  # fmt: skip
    for k, task in enumerate(problem.tasks):
        rows = np.sort(np.random.default_rng(1).permutation(60)[:40])
        x = task.data("train")[0]["input"][rows]
        assert torch.allclose(found["embed.weight"][0][k], x.T @ x / 40, atol=1e-5)
        net = tiny.net_pool().experts[task.name]
        with torch.no_grad():
            hidden = net.layers[0].norm(net.embed(x))
        assert torch.allclose(
            found["layers.0.attn.weight"][0][k], hidden.T @ hidden / 40, atol=1e-4
        )
    assert evaluator.counter.forward == 120


def test_the_linear_layers_of_a_transformer_are_found(vit_pool, vit_tasks):
    problem = MergeProblem(vit_pool, vit_tasks, merge={"method": "regmean", "samples": 10})
    names = set(problem.evaluator.statistics.grams(10, 0))
    assert sum("layer" in name for name in names) == 12
    assert np.isfinite(problem.evaluate(np.array([[0.2, 0.3, 0.4]]))).all()
