"""The contract of merge methods."""

from __future__ import annotations

import copy
import pickle
from dataclasses import MISSING, fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from moofusion.errors import ConfigurationError
from moofusion.merging import LinearMerge, MergeMethod, TaskVectorTransform
from moofusion.problems import MergeProblem
from moofusion.testing.standins import drift, toy_net, toy_pool, toy_tasks
from moofusion.weights import ModelPool

__all__ = ["MergeMethodContract"]

_ROW = np.array([[0.2, 0.7, 0.4]])


class MergeMethodContract:
    """What the evaluator relies on in a merge method, measured on toy models.

    A subclass gives the fixture `method`.

    Attributes:
        one_hot_is_expert: Whether the method promises that one-hot coefficients give that expert
            bit for bit.

    Example:
        >>> from moofusion.merging import Ties
        >>> class TestMyMethod(MergeMethodContract):
        ...     @pytest.fixture
        ...     def method(self):
        ...         return Ties(density=0.4)
    """

    one_hot_is_expert: bool = False

    def test_methods_are_small_values(self, method: MergeMethod) -> None:
        """Equal parameters, equal methods: problems keep what they prepared for one."""
        twin = pickle.loads(pickle.dumps(method))
        assert twin == copy.deepcopy(method) == method
        assert hash(twin) == hash(method)
        table = method.table
        assert table.pop("method") == method.name
        assert type(method)(**table) == method
        assert method.title in method.sentence

    def test_searchable_parameters_exist_and_are_allowed(self, method: MergeMethod) -> None:
        """Parameters that can be searched exist, and every value of their ranges works.

        The others are at their defaults, where they have any: values may exclude each other.
        """
        needed = any(f.default is MISSING and f.default_factory is MISSING for f in fields(method))
        plain = method if needed else type(method)()
        for parameter, values in method.searchable.items():
            assert parameter in method.parameter_names()
            assert values.xl < values.xu
            for value in (*values.extremes, values.middle):
                assert values.value(values.variable(value)) == value
                other = plain.at({parameter: value})
                assert getattr(other, parameter) == value
                weights = _problem(other).evaluator.weights(_ROW)
                assert torch.isfinite(weights).all()

    def test_weights_are_written_in_place(self, method: MergeMethod) -> None:
        """The given buffer is returned, with every parameter overwritten, in its own precision."""
        problem = _problem(method)
        merge = problem.evaluator.merge()
        out = torch.full_like(problem.evaluator.pool.vectors.base, torch.nan)
        assert merge(_ROW, out=out) is out
        assert out.dtype == problem.evaluator.pool.vectors.base.dtype
        for entry in merge.vectors.layout.entries:
            assert torch.isfinite(out[entry.slice]).all(), entry.name

    def test_arguments_stay_as_they_are(self, method: MergeMethod) -> None:
        """Neither base, task vectors nor coefficients are changed."""
        evaluator = _problem(method).evaluator
        vectors = evaluator.pool.vectors
        base, deltas, row = vectors.base.clone(), vectors.deltas.clone(), _ROW.copy()
        evaluator.weights(row)
        assert (row == _ROW).all()
        assert torch.equal(vectors.base, base)
        assert torch.equal(vectors.deltas, deltas)

    def test_merges_repeat_exactly(self, method: MergeMethod) -> None:
        """Equal coefficients, equal weights: whatever was merged between, and in a new problem."""
        evaluator = _problem(method).evaluator
        first = evaluator.weights(_ROW)
        other = evaluator.weights(_ROW[:, ::-1].copy())
        assert not torch.equal(first, other), "the coefficients have no effect"
        assert torch.equal(evaluator.weights(_ROW), first)
        assert torch.equal(_problem(method).evaluator.weights(_ROW), first)

    def test_permuted_experts_permute_the_coefficients(self, method: MergeMethod) -> None:
        """No expert is special because of its place in the pool."""
        pool, order = toy_pool(), [2, 0, 1]
        turned = ModelPool(pool.base, {pool.names[k]: pool.experts[pool.names[k]] for k in order})
        found = _problem(method, turned).evaluator.weights(_ROW[:, order])
        expected = _problem(method, pool).evaluator.weights(_ROW)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)

    def test_one_hot_coefficients_give_the_expert(self, method: MergeMethod) -> None:
        """Bit for bit, also where differences to the base were rounded; if the method says so."""
        if not self.one_hot_is_expert:
            pytest.skip("the method does not promise it")
        experts: dict[str, nn.Module] = {
            name: drift(toy_net(), 10 + k, 2.0) for k, name in enumerate("abc")
        }
        problem = _problem(method, ModelPool(drift(toy_net(), 9, 3.0), experts), "block-wise")
        vectors = problem.evaluator.pool.vectors
        for k in range(3):
            L = np.tile(np.eye(3)[k], (problem.space.n_groups, 1))
            assert torch.equal(problem.evaluator.weights(L), vectors.expert(k))

    def test_groups_are_independent(self, method: MergeMethod) -> None:
        """Coefficients of one group change the weights of that group alone."""
        problem = _problem(method, space="block-wise")
        L = np.tile(_ROW, (problem.space.n_groups, 1))
        before = problem.evaluator.weights(L)
        L[1] = [0.6, 0.1, 0.2]
        changed = problem.evaluator.weights(L) != before
        groups = problem.space.partition.groups
        for entry, group in zip(problem.evaluator.pool.layout.entries, groups, strict=True):
            if group != 1:
                assert not changed[entry.slice].any(), entry.name
        assert changed.any()

    def test_a_static_part_keeps_its_own_coefficients(self, method: MergeMethod) -> None:
        """What no group covers is merged with the static coefficients."""
        static = [0.5, 0.3, 0.1]
        space = {"kind": "task-wise", "select": "mlp", "static": static}
        part, whole = (_problem(method, space=s).evaluator for s in (space, "task-wise"))
        found = part.weights(_ROW)
        ends = {True: whole.weights(_ROW), False: whole.weights(np.array([static]))}
        for entry in part.pool.layout.entries:
            expected = ends[entry.role == "mlp"][entry.slice]
            torch.testing.assert_close(found[entry.slice], expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("space", ["task-wise", "block-wise"])
    def test_the_gradient_agrees_with_finite_differences(
        self, method: MergeMethod, space: str
    ) -> None:
        """Where the merge has one; where it has none, the problem says so."""
        problem = _problem(method, space=space)
        merge = problem.evaluator.merge()
        if not isinstance(merge, LinearMerge):
            with pytest.raises(ConfigurationError, match="no gradient"):
                problem.losses_and_grads(np.full(problem.n_var, 0.3))
            return
        generator = torch.Generator().manual_seed(1)
        slope = torch.zeros_like(merge.vectors.base)
        for entry in merge.vectors.layout.entries:
            slope[entry.slice] = torch.randn(entry.size, generator=generator)
        L = np.random.default_rng(1).uniform(0.2, 0.6, (problem.space.n_groups, 3))
        found = merge.gradient(slope, L)
        assert found.shape == L.shape
        for g, k in np.ndindex(min(len(L), 2), 3):
            move = np.zeros_like(L)
            move[g, k] = 1e-2
            ends = [problem.evaluator.weights(L + sign * move).double() for sign in (1, -1)]
            expected = float((ends[0] - ends[1]) @ slope.double()) / 2e-2
            assert found[g, k] == pytest.approx(expected, rel=1e-2, abs=1e-2)

    def test_half_precision_agrees_with_single(self, method: MergeMethod) -> None:
        """Task vectors in bfloat16 lose nothing but what rewriting them to bfloat16 does."""
        evaluator = _problem(method).evaluator
        vectors = evaluator.pool.vectors
        half = replace(vectors, deltas=vectors.deltas.bfloat16())
        full = replace(half, deltas=half.deltas.float())
        merged = [
            method.bind(
                given,
                evaluator.space.partition,
                static=evaluator.space.static,
                statistics=evaluator.statistics,
            )(_ROW, out=torch.empty_like(vectors.base))
            for given in (half, full)
        ]
        if not isinstance(method, TaskVectorTransform):
            torch.testing.assert_close(*merged, rtol=1e-5, atol=1e-5)
            return
        # Three rewritten task vectors, rounded once each.
        torch.testing.assert_close(*merged, rtol=2**-8, atol=2e-2)
        exact = method(full).deltas
        found = method(half).deltas
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), exact, rtol=2**-8, atol=1e-6)

    def test_degenerate_pools_give_finite_weights(self, method: MergeMethod) -> None:
        """A single expert, and one that equals the base."""
        same: dict[str, nn.Module] = {"a": drift(toy_net(), 10, 0.5), "b": toy_net()}
        for pool in (toy_pool(("a",)), ModelPool(toy_net(), same)):
            L = np.full((1, len(pool.names)), 0.4)
            assert torch.isfinite(_problem(method, pool).evaluator.weights(L)).all()


def _problem(
    method: MergeMethod, pool: ModelPool | None = None, space: object = "task-wise"
) -> MergeProblem:
    pool = pool or toy_pool()
    tasks = toy_tasks(toy_pool(), pool.names, objective="loss")
    return MergeProblem(pool, tasks, merge=method, space=space, device="cpu")  # type: ignore[arg-type]
