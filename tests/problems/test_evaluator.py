"""The evaluator: coefficients to measurements, with every sample counted."""

import threading

import numpy as np
import pytest
import tiny
import torch

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging import Simplex, make_space
from moofusion.problems import Evaluator
from moofusion.tasks import FunctionTask, Metric

N = len(("a", "b", "c")) * tiny.SIZES["search"]
L = np.array([[[0.2, 0.3, 0.4]], [[0.0, 1.0, 0.0]], [[-0.3, 0.9, 1.4]]])


def _evaluator(space="task-wise", tasks=None, pool=None, **options):
    pool = pool or tiny.net_pool()
    loaded = pool.load()
    tasks = tasks or tiny.net_tasks(pool)
    return Evaluator(loaded, tasks, make_space(space, loaded.layout, pool.names, **options))


@pytest.fixture
def evaluator():
    return _evaluator()


def _merged(row):
    """The merged net by the book: state dicts, double precision."""
    pool = tiny.net_pool()
    base = {k: v.double() for k, v in pool.base.state_dict().items()}
    state = dict(base)
    for weight, expert in zip(row, pool.experts.values(), strict=True):
        for key, value in expert.state_dict().items():
            state[key] = state[key] + weight * (value.double() - base[key])
    model = tiny.net()
    model.load_state_dict({k: v.float() for k, v in state.items()})
    return model


def test_measurements_are_those_of_the_model_merged_by_the_book(evaluator):
    for row, found in zip(L, evaluator.measure(L, "search"), strict=True):
        model = _merged(row[0])
        for task, measured in zip(evaluator.tasks, found.measurements, strict=True):
            expected = task.evaluate(model, "search").metrics
            assert measured.metrics["accuracy"] == expected["accuracy"]
            assert measured.metrics["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert not found.failed


def test_a_forward_sample_costs_one(evaluator):
    found = evaluator.measure(L, "search")
    assert [e.cost for e in found] == [N, N, N]
    assert (evaluator.counter.merges, evaluator.counter.forward) == (3, 3 * N)
    assert evaluator.counter.cost == 3 * N
    assert evaluator.counter.seconds > 0


def test_forward_and_backward_cost_three(evaluator):
    evaluator.loss_and_grad(L[0], evaluator.tasks[0])
    evaluator.loss_and_grad(L[0], evaluator.tasks[1], indices=np.arange(7))
    assert evaluator.counter.backward == tiny.SIZES["train"] + 7
    assert evaluator.counter.cost == 3 * evaluator.counter.backward
    assert evaluator.counter.merges == 2


def test_uniform_coefficients_reach_all_tensors_whatever_the_space():
    partial = _evaluator("block-wise", select="mlp", static=0.0)
    whole = _evaluator()
    rows = L[:, 0]
    assert [e.measurements for e in partial.measure_uniform(rows, "search")] == [
        e.measurements for e in whole.measure(L, "search")
    ]


def test_weights_are_copies_of_the_merged_buffer(evaluator):
    first, second = evaluator.weights(L[0]), evaluator.weights(L[1])
    vectors = evaluator.pool.vectors
    assert torch.equal(second, vectors.expert(1))
    assert not torch.equal(first, second)
    expected = vectors.base + torch.tensor(L[0], dtype=torch.float32)[0] @ vectors.deltas
    assert torch.allclose(first, expected, atol=1e-6)
    assert torch.equal(evaluator.uniform_weights(L[1, 0]), second)


def test_coefficients_of_another_shape_are_refused(evaluator):
    with pytest.raises(ConfigurationError, match=r"shape \(1, 2\), expected \(G, K\) = \(1, 3\)"):
        evaluator.measure(np.zeros((1, 1, 2)), "search")


# ---------------------------------------------------------------------------------- heads


def test_a_task_uses_the_expert_of_its_name_else_the_base():
    pool = tiny.net_pool()
    tasks = [*tiny.net_tasks(pool, ["b"]), FunctionTask("other", lambda m: 0.0)]
    evaluator = _evaluator(tasks=tasks, pool=pool)
    modules = evaluator.pool.model.modules
    assert evaluator.module(tasks[0]) is modules["b"]
    assert evaluator.module(tasks[1]) is modules["base"]


def test_a_task_may_name_its_head():
    tasks = [FunctionTask("x", lambda m: 0.0, head="c")]
    evaluator = _evaluator(tasks=tasks)
    assert evaluator.module(tasks[0]) is evaluator.pool.model.modules["c"]


def test_a_head_that_does_not_exist_is_named():
    with pytest.raises(UnknownNameError, match=r"head of task 'x' 'cc'; did you mean 'c'"):
        _evaluator(tasks=[FunctionTask("x", lambda m: 0.0, head="cc")])


# ------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("space", ["task-wise", "block-wise", "tensor-wise"])
def test_chunks_add_up_to_one_pass(space):
    evaluator = _evaluator(space)
    G = evaluator.space.n_groups
    rows = np.random.default_rng(0).uniform(0, 0.5, (G, 3))
    loss, gradient = evaluator.loss_and_grad(rows, evaluator.tasks[0], chunk=1000)
    for chunk in (1, 7, 60):
        again, pieces = evaluator.loss_and_grad(rows, evaluator.tasks[0], chunk=chunk)
        assert again == pytest.approx(loss, rel=1e-5)
        assert pieces == pytest.approx(gradient, rel=1e-4, abs=1e-6)


def test_two_gradients_in_a_row_are_equal(evaluator):
    first = evaluator.loss_and_grad(L[0], evaluator.tasks[0])
    evaluator.loss_and_grad(L[2], evaluator.tasks[1])
    second = evaluator.loss_and_grad(L[0], evaluator.tasks[0])
    assert first[0] == second[0]
    assert (first[1] == second[1]).all()


def test_a_gradient_leaves_evaluations_as_they_were(evaluator):
    before = evaluator.measure(L, "search")
    evaluator.loss_and_grad(L[2], evaluator.tasks[0])
    after = evaluator.measure(L, "search")
    assert [e.measurements for e in before] == [e.measurements for e in after]
    module = evaluator.module(evaluator.tasks[0])
    assert all(p.grad is None and not p.requires_grad for p in module.parameters())


def test_a_task_without_a_loss_leaves_the_evaluator_usable():
    pool = tiny.net_pool()
    evaluator = _evaluator(tasks=[FunctionTask("x", lambda m: 1.0)], pool=pool)
    with pytest.raises(ConfigurationError, match="no differentiable loss"):
        evaluator.loss_and_grad(L[0], evaluator.tasks[0], indices=np.arange(3))
    assert not evaluator.measure(L, "search")[0].failed
    assert not any(p.requires_grad for p in evaluator.pool.model.modules["base"].parameters())


# -------------------------------------------------------------------------------- threads


def test_threads_take_turns(evaluator):
    rows = np.random.default_rng(0).uniform(0, 1, (24, 1, 3))
    expected = [e.measurements for e in _evaluator().measure(rows, "search")]
    found = [None] * len(rows)

    def work(start):
        for i in range(start, len(rows), 4):
            if start == 3:
                evaluator.loss_and_grad(rows[i], evaluator.tasks[i % 3])
            found[i] = evaluator.measure(rows[i : i + 1], "search")[0].measurements

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
    assert evaluator.counter.forward == 24 * N


# ---------------------------------------------------------------------------- fingerprints


def test_equal_evaluators_have_equal_fingerprints():
    assert _evaluator().fingerprint("search") == _evaluator().fingerprint("search")


def test_fingerprints_tell_everything_apart_that_changes_a_metric():
    pool = tiny.net_pool()
    other = tiny.net_pool()
    with torch.no_grad():
        other.experts["b"].head.bias[1] += 1e-6
    evaluators = {
        "plain": _evaluator(),
        "bounds": _evaluator(upper=1.5),
        "space": _evaluator("block-wise"),
        "selection": _evaluator(select="mlp"),
        "static": _evaluator(select="mlp", static=0.1),
        "simplex": _evaluator("simplex"),
        "scale": _evaluator("simplex", scale=1.5),
        "weights": _evaluator(pool=other, tasks=tiny.net_tasks(pool)),
        "tasks": _evaluator(tasks=tiny.net_tasks(pool, ["a", "b"])),
        "order": _evaluator(tasks=tiny.net_tasks(pool, ["b", "a", "c"])),
        "objective": _evaluator(tasks=tiny.net_tasks(pool, objective="loss")),
    }
    found = {name: e.fingerprint("search") for name, e in evaluators.items()}
    found["test split"] = evaluators["plain"].fingerprint("test")
    assert len(set(found.values())) == len(found)


def test_metrics_beside_the_objective_count():
    """Stores keep metrics by position: one more or another order is another problem."""
    pool = tiny.net_pool()

    def fingerprint(*more):
        tasks = tiny.net_tasks(pool)
        tasks[1].metrics = (*tasks[1].metrics, *(Metric(name, "max") for name in more))
        return _evaluator(pool=pool, tasks=tasks).fingerprint("search")

    assert len({fingerprint(), fingerprint("x"), fingerprint("x", "y"), fingerprint("y", "x")}) == 4


def test_a_space_of_the_users_own_is_told_apart_by_what_it_does():
    class Squared(Simplex):
        def coefficients(self, X):
            return super().coefficients(np.asarray(X) ** self.power)

    def fingerprint(power):
        evaluator = _evaluator("simplex")
        evaluator.space = Squared(evaluator.space.partition, ("a", "b", "c"))
        evaluator.space.power = power
        return evaluator.fingerprint("search")

    assert fingerprint(2) != fingerprint(3)


def test_heads_count_as_weights():
    """They stay outside the merge, but a head trained anew gives other metrics."""
    from moofusion.weights import ModelPool

    def fingerprint(step):
        pool = tiny.net_pool()
        with torch.no_grad():
            pool.experts["b"].head.bias[1] += step
        headed = ModelPool(pool.base, pool.experts, heads=["head.*"])
        return _evaluator(pool=headed, tasks=tiny.net_tasks(tiny.net_pool())).fingerprint("search")

    assert fingerprint(0.0) == fingerprint(0.0)
    assert fingerprint(0.0) != fingerprint(1e-3)
