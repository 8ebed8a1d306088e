"""The contract of tasks."""

from __future__ import annotations

import copy

import cloudpickle
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from moofusion.errors import ConfigurationError, DataError, UnknownNameError
from moofusion.tasks import Task
from moofusion.tasks.base import SPLITS

__all__ = ["TaskContract"]


class TaskContract:
    """What evaluator, algorithms and studies rely on in a task.

    A subclass gives the fixtures `task` (a fresh task with a search split) and `module` (what it
    measures, in evaluation mode), and best also `changed_task`: the same task on other data.
    Tests of what a task does not offer (a loss, a batch size) check that it says so, or are
    skipped.

    Example:
        >>> from moofusion.testing import toy_net, toy_pool, toy_tasks
        >>> class TestMyTask(TaskContract):
        ...     @pytest.fixture
        ...     def task(self):
        ...         return toy_tasks(toy_pool())[0]
        ...
        ...     @pytest.fixture
        ...     def module(self):
        ...         return toy_net()
    """

    @pytest.fixture
    def changed_task(self) -> Task:
        """The same task on other data; without it this check is skipped."""
        pytest.skip("no changed_task fixture was given")

    def test_splits_are_there_or_refused(self, task: Task, module: nn.Module) -> None:
        """A search split exists, and every other is there or missing with a clear error."""
        assert task.has_split("search"), "optimizers need a search split"
        for split in SPLITS:
            if not task.has_split(split):
                with pytest.raises(DataError, match=split):
                    task.n_samples(split)
                with pytest.raises(DataError, match=split):
                    task.evaluate(module, split)
        with pytest.raises(UnknownNameError, match="serch"):
            task.n_samples("serch")
        with pytest.raises(UnknownNameError, match="serch"):
            task.evaluate(module, "serch")

    def test_samples_are_counted(self, task: Task, module: nn.Module) -> None:
        """An evaluation reports what `passes` announces: the axis of cost."""
        for split in _splits(task):
            count = task.n_samples(split)
            assert isinstance(count, int | np.integer)
            assert count >= 0
            passes = task.passes(split)
            assert task.evaluate(module, split).n_samples == passes[0]
            assert passes[1] == 0
            rows = np.arange(count)
            parts = [task.passes(split, part, gradient=True) for part in (rows[:2], rows[2:])]
            whole = task.passes(split, gradient=True)
            assert tuple(map(sum, zip(*parts, strict=True))) == whole

    def test_metrics_are_those_announced_and_finite(self, task: Task, module: nn.Module) -> None:
        """Every metric of `metrics` is measured and no other; none is NaN or infinite."""
        names = [metric.name for metric in task.metrics]
        assert names, "a task needs a metric"
        assert len(set(names)) == len(names)
        assert task.objective in task.metrics
        for split in _splits(task):
            found = task.evaluate(module, split)
            assert set(found.metrics) == set(names)
            assert found.is_finite

    def test_nothing_measured_is_worse_than_the_worst(self, task: Task, module: nn.Module) -> None:
        """A failed model gets `worst`; a real one must not lie beyond it."""
        for split in _splits(task):
            found = task.evaluate(module, split)
            for metric in task.metrics:
                if metric.worst is not None:
                    assert metric.objective(found.metrics[metric.name]) <= metric.worst + 1e-12

    def test_evaluations_repeat_exactly(self, task: Task, module: nn.Module) -> None:
        """The same weights give the same numbers, whatever the global generators hold."""
        for split in _splits(task):
            found = []
            state = torch.get_rng_state(), np.random.get_state()
            try:
                for seed in (1, 2):
                    torch.manual_seed(seed)
                    np.random.seed(seed)
                    found.append(task.evaluate(module, split))
            finally:
                torch.set_rng_state(state[0])
                np.random.set_state(state[1])
            assert found[0] == found[1]

    def test_evaluations_leave_the_module_alone(self, task: Task, module: nn.Module) -> None:
        """No weight, no gradient, no mode is changed: the weights are views of a shared buffer."""
        before = {name: value.clone() for name, value in module.state_dict().items()}
        for split in _splits(task):
            task.evaluate(module, split)
        after = module.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert all(parameter.grad is None for parameter in module.parameters())
        assert not any(part.training for part in module.modules())

    def test_preparing_again_changes_nothing(self, task: Task, module: nn.Module) -> None:
        """`prepare` may be called more than once, before and after an evaluation."""
        task.prepare(torch.device("cpu"))
        first = task.evaluate(module, "search")
        task.prepare(torch.device("cpu"))
        assert task.evaluate(module, "search") == first

    def test_batches_do_not_matter(self, task: Task, module: nn.Module) -> None:
        """Where there is a `batch_size`, metrics do not depend on it."""
        if not hasattr(task, "batch_size"):
            pytest.skip("the task has no batch_size")
        expected = dict(task.evaluate(module, "search").metrics)
        for size in (1, 7, task.n_samples("search") + 1):
            other = copy.deepcopy(task)
            other.batch_size = size
            found = dict(other.evaluate(module, "search").metrics)
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)

    def test_copies_are_the_same_task(self, task: Task, module: nn.Module) -> None:
        """Copies and pickles, as sent to other processes, measure the same."""
        expected = {split: task.evaluate(module, split) for split in _splits(task)}
        for twin in (copy.deepcopy(task), _pickled(task)):
            assert (twin.name, twin.head, twin.objective) == (task.name, task.head, task.objective)
            assert {split: twin.evaluate(module, split) for split in _splits(twin)} == expected

    def test_fingerprints_repeat(self, task: Task, module: nn.Module) -> None:
        """Equal tasks have equal fingerprints: studies find their earlier evaluations by them."""
        for split in _splits(task):
            first = task.fingerprint(split)
            assert isinstance(first, str)
            assert first
            task.evaluate(module, split)
            assert task.fingerprint(split) == first
            assert _pickled(task).fingerprint(split) == first

    def test_fingerprints_tell_data_apart(self, task: Task, changed_task: Task) -> None:
        """Other data, another fingerprint: or a study would answer with outdated numbers."""
        assert changed_task.name == task.name, "only the data of changed_task may differ"
        for split in _splits(task):
            assert changed_task.fingerprint(split) != task.fingerprint(split)

    def test_the_loss_is_the_metric_of_that_name(self, task: Task, module: nn.Module) -> None:
        """Where both exist, gradient methods descend on what is reported."""
        _require_loss(task, module)
        for split in _splits(task):
            reported = task.evaluate(module, split).metrics.get("loss")
            if reported is None:
                pytest.skip("the task reports no metric 'loss'")
            assert _loss(task, module, split) == pytest.approx(reported, rel=1e-4, abs=1e-6)

    def test_the_loss_is_a_mean_over_samples(self, task: Task, module: nn.Module) -> None:
        """Parts average to the whole, and a sample named twice counts twice."""
        _require_loss(task, module)
        rows = np.arange(task.n_samples("search"))
        whole = _loss(task, module, "search")
        parts = [rows[:5], rows[5:]] if len(rows) > 5 else [rows]
        found = sum(len(part) * _loss(task, module, "search", part) for part in parts)
        assert found / len(rows) == pytest.approx(whole, rel=1e-4, abs=1e-6)
        once, other = (_loss(task, module, "search", rows[[i]]) for i in (0, -1))
        twice = _loss(task, module, "search", rows[[0, 0, -1]])
        assert twice == pytest.approx((2 * once + other) / 3, rel=1e-4, abs=1e-6)

    def test_the_loss_has_its_gradient(self, task: Task, module: nn.Module) -> None:
        """Also after an evaluation; against a finite difference along the gradient."""
        _require_loss(task, module)
        task.evaluate(module, "search")
        weights = [p for p in module.parameters() if p.requires_grad]
        loss = task.loss(module, "search")
        assert loss.shape == (), f"a loss is one number, got shape {tuple(loss.shape)}"
        assert loss.requires_grad, "the loss carries no graph"
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        slopes = [
            torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)
        ]
        norm = float(torch.stack([g.double().square().sum() for g in slopes]).sum().sqrt())
        assert np.isfinite(norm)
        assert norm > 0
        kept = [w.detach().clone() for w in weights]
        values = []
        with torch.no_grad():
            for step in (1e-2, -1e-2):
                for w, k, g in zip(weights, kept, slopes, strict=True):
                    w.copy_(k + step / max(norm, 1) * g / max(norm, 1))
                values.append(float(task.loss(module, "search").detach()))
            for w, k in zip(weights, kept, strict=True):
                w.copy_(k)
        expected = 2e-2 * norm**2 / max(norm, 1) ** 2
        assert values[0] - values[1] == pytest.approx(expected, rel=0.05, abs=1e-5)


def _splits(task: Task) -> list[str]:
    return [split for split in SPLITS if task.has_split(split)]


def _loss(
    task: Task, module: nn.Module, split: str, rows: NDArray[np.int64] | None = None
) -> float:
    return float(task.loss(module, split, rows).detach())


def _pickled(task: Task) -> Task:
    # By value, as problems are sent to other processes.
    twin = cloudpickle.loads(cloudpickle.dumps(task))
    assert isinstance(twin, Task)
    return twin


def _require_loss(task: Task, module: nn.Module) -> None:
    """Skip where a task has no loss and says so."""
    if type(task).loss is Task.loss:
        with pytest.raises(ConfigurationError, match="no differentiable loss"):
            task.loss(module, "search")
        pytest.skip("the task has no differentiable loss, and says so")
