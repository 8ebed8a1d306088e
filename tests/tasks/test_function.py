"""A user's own number as a task."""

import pytest
import tiny
import torch

from moofusion.errors import ConfigurationError, DataError
from moofusion.tasks import FunctionTask


def total(module):
    return sum(p.detach().abs().sum().item() for p in module.parameters())


def largest(module):
    return max(p.detach().abs().max().item() for p in module.parameters())


def test_more_is_better_by_default():
    task = FunctionTask("size", total, best=1000.0, n_samples=5)
    found = task.evaluate(tiny.net(), "search")
    assert found.metrics == {"value": pytest.approx(total(tiny.net()))}
    assert found.n_samples == task.n_samples("search") == 5
    assert task.objective.objective(400.0) == 600.0


def test_less_is_better_on_request():
    task = FunctionTask("size", total, direction="min", metric="weight", worst=9.0)
    assert task.objective.objective(400.0) == 400.0
    assert task.objective.objective_name == "weight"
    assert task.objective.worst == 9.0
    assert set(task.evaluate(tiny.net(), "search").metrics) == {"weight"}


def test_held_out_data_are_another_function():
    task = FunctionTask("size", total, test=largest)
    assert task.has_split("test")
    assert task.evaluate(tiny.net(), "test").metrics["value"] == largest(tiny.net())


def test_without_one_there_is_no_test_split():
    task = FunctionTask("size", total)
    assert not task.has_split("test")
    with pytest.raises(DataError, match="'size' was built without a 'test' split"):
        task.evaluate(tiny.net(), "test")


def test_the_function_runs_without_a_graph():
    seen = []
    FunctionTask("x", lambda m: seen.append(torch.is_grad_enabled()) or 0.0).evaluate(
        tiny.net(), "search"
    )
    assert seen == [False]


def test_a_direction_must_be_known():
    with pytest.raises(ConfigurationError, match="'max' or 'min'"):
        FunctionTask("size", total, direction="up")
