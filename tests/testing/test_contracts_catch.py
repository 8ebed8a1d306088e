"""Every check of every contract fails for something that is broken, and passes for what is not."""

import contextlib
import inspect
import sqlite3
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from pymoo.core.population import Population

from moofusion import RandomSearch
from moofusion.errors import ConfigurationError, MoofusionError, RunError
from moofusion.merging import GroupWise, Linear, LinearMerge, Real
from moofusion.tasks import Measurement, TensorClassification
from moofusion.testing import (
    AlgorithmContract,
    AlgorithmTraits,
    MergeMethodContract,
    RunnerContract,
    SpaceContract,
    TaskContract,
    toy_net,
)
from moofusion.weights import ParameterLayout

CAUGHT = (AssertionError, pytest.fail.Exception, MoofusionError, TypeError)


def run_check(contract, name, **given):
    """Call one inherited test with what its fixtures would give."""
    check = getattr(contract(), name)
    return check(**{key: given[key] for key in inspect.signature(check).parameters})


def checks(contract):
    return {name for name in dir(contract) if name.startswith("test_")}


# --------------------------------------------------------------------------------- tasks


def _data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        split: (torch.randn(41, 4, generator=generator), torch.arange(41) % 3)
        for split in ("train", "search")
    }


class GoodTask(TensorClassification):
    def __init__(self, data=None):
        super().__init__("t", data or _data(), classes=3, batch_size=16)

    def _changed(self, module, split, change=lambda m: m, extra=0):
        found = super().evaluate(module, split)
        return Measurement(change(dict(found.metrics)), found.n_samples + extra)


class ManySplits(GoodTask):
    def require(self, split):
        pass

    def n_samples(self, split):
        return self._sizes.get(split, 0)


class Miscounts(GoodTask):
    def evaluate(self, module, split):
        return self._changed(module, split, extra=1)


class LosesAMetric(GoodTask):
    def evaluate(self, module, split):
        return self._changed(module, split, lambda m: {"accuracy": m["accuracy"]})


class GivesNan(GoodTask):
    def evaluate(self, module, split):
        return self._changed(module, split, lambda m: m | {"loss": float("nan")})


class WorseThanWorst(GoodTask):
    metrics = tuple(replace(m, worst=0.01) for m in GoodTask.metrics)


class Noisy(GoodTask):
    def evaluate(self, module, split):
        noise = float(torch.rand(()))
        return self._changed(module, split, lambda m: m | {"loss": m["loss"] + noise})


class Trains(GoodTask):
    def evaluate(self, module, split):
        with torch.no_grad():
            module.head.bias += 0.1
        return super().evaluate(module, split)


class ChangesMode(GoodTask):
    def evaluate(self, module, split):
        module.train()
        return super().evaluate(module, split)


class PreparesTwice(GoodTask):
    def prepare(self, device):
        super().prepare(device)
        self._data = {s: ({"input": x["input"] + 1}, y) for s, (x, y) in self._data.items()}
        self._resident.clear()


class MeanOfBatches(GoodTask):
    def evaluate(self, module, split):
        with torch.no_grad():
            means = [
                torch.nn.functional.cross_entropy(self.logits(module, x), y)
                for x, y in self.batches(split)
            ]
        return self._changed(module, split, lambda m: m | {"loss": float(np.mean(means))})


class ForgetsOnCopy(GoodTask):
    def __setstate__(self, state):
        self.__dict__.update(state)
        self._data = {s: (x, (y + 1) % 3) for s, (x, y) in self._data.items()}


class FingerprintOfTheObject(GoodTask):
    def fingerprint(self, split):
        return str(id(self))


class FingerprintOfTheName(GoodTask):
    def fingerprint(self, split):
        return self.name


class OtherLoss(GoodTask):
    def loss(self, module, split, indices=None):
        return 2 * super().loss(module, split, indices)


class IgnoresIndices(GoodTask):
    def loss(self, module, split, indices=None):
        return super().loss(module, split, None if indices is None else indices[:1])


class NoGraph(GoodTask):
    def loss(self, module, split, indices=None):
        return super().loss(module, split, indices).detach()


class WrongGradient(GoodTask):
    def loss(self, module, split, indices=None):
        loss = super().loss(module, split, indices)
        return 2 * loss - loss.detach()


TASKS = [
    (ManySplits, "test_splits_are_there_or_refused"),
    (Miscounts, "test_samples_are_counted"),
    (LosesAMetric, "test_metrics_are_those_announced_and_finite"),
    (GivesNan, "test_metrics_are_those_announced_and_finite"),
    (WorseThanWorst, "test_nothing_measured_is_worse_than_the_worst"),
    (Noisy, "test_evaluations_repeat_exactly"),
    (Trains, "test_evaluations_leave_the_module_alone"),
    (ChangesMode, "test_evaluations_leave_the_module_alone"),
    (PreparesTwice, "test_preparing_again_changes_nothing"),
    (MeanOfBatches, "test_batches_do_not_matter"),
    (ForgetsOnCopy, "test_copies_are_the_same_task"),
    (FingerprintOfTheObject, "test_fingerprints_repeat"),
    (FingerprintOfTheName, "test_fingerprints_tell_data_apart"),
    (OtherLoss, "test_the_loss_is_the_metric_of_that_name"),
    (IgnoresIndices, "test_the_loss_is_a_mean_over_samples"),
    (NoGraph, "test_the_loss_has_its_gradient"),
    (WrongGradient, "test_the_loss_has_its_gradient"),
]


@pytest.mark.parametrize(("broken", "name"), TASKS)
def test_broken_tasks_are_caught(broken, name):
    def given(kind):
        return {"task": kind(), "changed_task": kind(_data(1)), "module": toy_net(1)}

    run_check(TaskContract, name, **given(GoodTask))
    with pytest.raises(CAUGHT):
        run_check(TaskContract, name, **given(broken))


# --------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class GoodMethod(Linear):
    name: ClassVar[str] = "linear"
    change: ClassVar = staticmethod(lambda deltas: deltas)

    def __call__(self, vectors):
        return replace(vectors, deltas=type(self).change(vectors.deltas))


def method(label, **body):
    """A method with some members of its own."""
    return dataclass(frozen=True)(type(label, (GoodMethod,), body))


class Loose(LinearMerge):
    def __call__(self, coefficients, *, out):
        return super().__call__(coefficients, out=out).clone()


class Coupled(LinearMerge):
    def __call__(self, coefficients, *, out):
        return super().__call__(coefficients / coefficients.sum(), out=out)


class Squared(LinearMerge):
    def __call__(self, coefficients, *, out):
        return super().__call__(coefficients**2, out=out)


def bound_as(kind):
    def bind(self, vectors, partition, *, static, statistics=None):
        return kind(self(vectors), partition, static=static)

    return bind


def without_static(self, vectors, partition, *, static, statistics=None):
    return LinearMerge(vectors, partition, static=0 * static)


def refuse_much(self):
    if self.strength > 1:
        raise ConfigurationError("strength must be at most 1")


def first_halved(deltas):
    return deltas * torch.tensor([0.5] + [1.0] * (len(deltas) - 1))[:, None]


def changing(function):
    return {"change": staticmethod(function)}


@dataclass(frozen=True)
class Unhashable(GoodMethod):
    weights: list = field(default_factory=list)


METHODS = [
    (Unhashable, "test_methods_are_small_values"),
    (
        method(
            "RefusesItsBounds",
            __annotations__={"strength": float},
            strength=1.0,
            searchable={"strength": Real(0.5, 2.0)},
            __post_init__=refuse_much,
        ),
        "test_searchable_parameters_exist_and_are_allowed",
    ),
    (method("Loose", bind=bound_as(Loose)), "test_weights_are_written_in_place"),
    (method("InPlace", **changing(lambda d: d.mul_(0.9))), "test_arguments_stay_as_they_are"),
    (method("Noisy", **changing(lambda d: d * torch.rand(()))), "test_merges_repeat_exactly"),
    (method("Deaf", **changing(torch.zeros_like)), "test_merges_repeat_exactly"),
    (method("First", **changing(first_halved)), "test_permuted_experts_permute_the_coefficients"),
    (method("Short", **changing(lambda d: 0.99 * d)), "test_one_hot_coefficients_give_the_expert"),
    (method("Coupled", bind=bound_as(Coupled)), "test_groups_are_independent"),
    (method("NoStatic", bind=without_static), "test_a_static_part_keeps_its_own_coefficients"),
    (method("Squared", bind=bound_as(Squared)), "test_the_gradient_agrees_with_finite_differences"),
    (method("Wide", **changing(lambda d: d.float())), "test_half_precision_agrees_with_single"),
    (
        method("Unit", **changing(lambda d: d / d.norm(dim=1, keepdim=True))),
        "test_degenerate_pools_give_finite_weights",
    ),
]


class ExactMethodContract(MergeMethodContract):
    one_hot_is_expert = True


@pytest.mark.parametrize(("broken", "name"), METHODS)
def test_broken_methods_are_caught(broken, name):
    run_check(ExactMethodContract, name, method=GoodMethod(), space="block-wise")
    with pytest.raises(CAUGHT):
        run_check(ExactMethodContract, name, method=broken(), space="block-wise")


# --------------------------------------------------------------------------------- spaces


class GoodSpace(GroupWise):
    def __init__(self):
        layout = ParameterLayout({f"h.{i}.w": (2,) for i in range(3)})
        super().__init__(layout.partition("block"), ("a", "b"))


class SameNames(GoodSpace):
    def __init__(self):
        super().__init__()
        self.names = ("x",) * self.n_var


class NoRange(GoodSpace):
    def __init__(self):
        super().__init__()
        self.xu = self.xl.copy()


class StaticOfAnother(GoodSpace):
    def __init__(self):
        super().__init__()
        self.static = np.zeros(5)


class Turned(GoodSpace):
    def coefficients(self, X):
        return super().coefficients(X).transpose(0, 2, 1)


class DividesByZero(GoodSpace):
    def coefficients(self, X):
        with np.errstate(all="ignore"):
            L = super().coefficients(X)
            return L / L.sum(axis=2, keepdims=True)


class Centred(GoodSpace):
    def coefficients(self, X):
        L = super().coefficients(X)
        return L - L.mean(axis=0)


class Overwrites(GoodSpace):
    def coefficients(self, X):
        X *= 0.5
        return super().coefficients(X)


class HalfWay(GoodSpace):
    def decision(self, L):
        return 0.5 * super().decision(L)


class Unbounded(GoodSpace):
    def decision(self, L):
        return L.reshape(len(L), -1)


class FirstGroupOnly(GoodSpace):
    def uniform(self, L):
        X = super().uniform(L)
        X[:, 2:] = 0
        return X


class Steep(GoodSpace):
    def pullback(self, x, dL):
        return 2 * super().pullback(x, dL)


class Coarse(GoodSpace):
    def canonical(self, X):
        return X.round(1)


class ScattersAll(GoodSpace):
    def scattered(self, X, rng):
        return rng.uniform(self.xl, self.xu, X.shape)


class NamelessPickle(GoodSpace):
    def __repr__(self):
        return str(id(self))


SPACES = [
    (SameNames, "test_variables_have_names_and_bounds"),
    (NoRange, "test_variables_have_names_and_bounds"),
    (StaticOfAnother, "test_static_coefficients_are_one_per_expert"),
    (Turned, "test_shapes"),
    (DividesByZero, "test_coefficients_are_finite_in_every_corner"),
    (Centred, "test_rows_are_independent"),
    (Overwrites, "test_arguments_stay_as_they_are"),
    (HalfWay, "test_decisions_have_the_coefficients_they_were_made_from"),
    (Coarse, "test_canonical_decisions_stand_for_the_same_models"),
    (ScattersAll, "test_scattering_changes_parameters_alone"),
    (Unbounded, "test_decisions_lie_within_the_bounds"),
    (FirstGroupOnly, "test_uniform_coefficients_are_the_same_in_every_group"),
    (Steep, "test_the_pullback_agrees_with_finite_differences"),
    (NamelessPickle, "test_pickles_are_the_same_space"),
]


@pytest.mark.parametrize(("broken", "name"), SPACES)
def test_broken_spaces_are_caught(broken, name):
    run_check(SpaceContract, name, space=GoodSpace())
    with pytest.raises(CAUGHT):
        run_check(SpaceContract, name, space=broken())


# --------------------------------------------------------------------------------- algorithms


class Hidden(RandomSearch):
    def _batch(self, size):
        X = super()._batch(size)
        self.problem.evaluate(0.5 * X)
        return X


class Spends(RandomSearch):
    def _infill(self):
        return Population.new(X=self._batch(self.batch_size))


class Outside(RandomSearch):
    def _batch(self, size):
        return 5 * super()._batch(size)


class Unseeded(RandomSearch):
    def _batch(self, size):
        return np.random.random((size, self.problem.n_var))


class Constant(RandomSearch):
    def _batch(self, size):
        return np.full((size, self.problem.n_var), 0.3)


class Seeds(RandomSearch):
    def _batch(self, size):
        np.random.seed(0)
        return super()._batch(size)


class LooksAtTheCost(RandomSearch):
    def _batch(self, size):
        return super()._batch(size) / (1 + self.problem.counter.merges)


class Remembers(RandomSearch):
    runs: ClassVar[list] = []

    def _setup(self, problem, **kwargs):
        self.runs.append(1)

    def _batch(self, size):
        return super()._batch(size) / len(self.runs)


class ReturnsEverything(RandomSearch):
    def _set_optimum(self):
        self.opt = self.pop


class ReturnsTheLast(RandomSearch):
    def _advance(self, infills=None, **kwargs):
        self.pop = infills


class IgnoresConstraints(RandomSearch):
    def _set_optimum(self):
        from moofusion.comparison.quality import nondominated

        self.opt = self.pop[nondominated(np.asarray(self.pop.get("F"), float))]


ALGORITHMS = [
    (Hidden, "test_the_budget_is_kept"),
    (Spends, "test_the_budget_is_kept"),
    (Outside, "test_candidates_lie_within_the_bounds"),
    (Unseeded, "test_equal_seeds_give_equal_runs"),
    (Constant, "test_equal_seeds_give_equal_runs"),
    (Seeds, "test_global_generators_are_left_alone"),
    (LooksAtTheCost, "test_a_run_resumes_by_replay"),
    (Remembers, "test_one_object_runs_many_times"),
    (ReturnsEverything, "test_the_result_is_the_front"),
    (ReturnsTheLast, "test_the_result_is_the_front"),
    (IgnoresConstraints, "test_constraints_are_kept"),
]


@pytest.mark.parametrize(("broken", "name"), ALGORITHMS)
def test_broken_algorithms_are_caught(broken, name):
    def given(kind):
        return {
            "make_algorithm": lambda problem: kind(batch_size=7),
            "traits": AlgorithmTraits(),
            "objectives": 2,
        }

    run_check(AlgorithmContract, name, **given(RandomSearch))
    with pytest.raises(CAUGHT):
        run_check(AlgorithmContract, name, **given(broken))


# --------------------------------------------------------------------------------- runners


def idle(study):
    pass


def forgetful(study):
    done = study.cells()[0].status == "done"
    study.run(threads=1)
    if done:
        with contextlib.closing(sqlite3.connect(study.path)) as store, store:
            store.execute("DELETE FROM evaluation WHERE number = 1")


def quiet(study):
    with contextlib.suppress(RunError):
        study.run(threads=1)


RUNNERS = [
    (idle, "test_the_table_is_that_of_single_runs"),
    (forgetful, "test_running_again_adds_nothing"),
    (quiet, "test_a_failing_run_is_named_and_the_others_are_finished"),
]


@pytest.mark.parametrize(("broken", "name"), RUNNERS)
def test_broken_runners_are_caught(broken, name, tmp_path):
    from moofusion.testing import runner

    alone = runner._rows(runner._study(tmp_path / "alone.db").run(threads=1))
    for kind, runs in ("good", lambda study: study.run(threads=1)), ("broken", broken):
        (tmp_path / kind).mkdir()
        given = {"runner": runs, "tmp_path": tmp_path / kind, "expected": alone}
        if kind == "good":
            run_check(RunnerContract, name, **given)
        else:
            with pytest.raises(CAUGHT):
                run_check(RunnerContract, name, **given)


@pytest.mark.parametrize(
    ("contract", "table"),
    [
        (TaskContract, TASKS),
        (MergeMethodContract, METHODS),
        (SpaceContract, SPACES),
        (AlgorithmContract, ALGORITHMS),
        (RunnerContract, RUNNERS),
    ],
)
def test_every_check_catches_something(contract, table):
    assert {name for _, name in table} == checks(contract)
