"""MergeProblem: what pymoo and its users rely on."""

import copy
import pickle

import numpy as np
import pytest
import tiny
import torch
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.core.callback import Callback
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.optimize import minimize
from pymoo.util.ref_dirs import get_reference_directions

from moofusion.errors import ConfigurationError, DataError, UnknownNameError
from moofusion.problems import MergeProblem
from moofusion.tasks import FunctionTask

X = np.array([[0.2, 0.3, 0.4], [0.0, 1.0, 0.0], [0.9, 0.1, 0.5], [0.0, 0.0, 0.0]])
COST = 3 * tiny.SIZES["search"]


def _population(problem, X):
    return Evaluator().eval(problem, Population.new(X=X))


def _plain_accuracies(vit_folders, images, candidates, split):
    """Merge state dicts in double precision, load them into plain transformers, count hits."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTModel

    base = ViTModel.from_pretrained(vit_folders.base).state_dict()
    models = {
        name: AutoModelForImageClassification.from_pretrained(folder).eval()
        for name, folder in vit_folders.experts.items()
    }
    bodies = [copy.deepcopy(model.vit.state_dict()) for model in models.values()]
    processor = AutoImageProcessor.from_pretrained(vit_folders.base)
    found = np.zeros((len(candidates), len(models)))
    for j, (name, model) in enumerate(models.items()):
        pictures = [picture[..., None] for picture in images[name].items[split]]
        inputs = processor(pictures, return_tensors="pt", input_data_format="channels_last")
        for i, weights in enumerate(candidates):
            merged = {}
            for key in bodies[0]:
                start = base[key].double()
                moves = [body[key].double() - start for body in bodies]
                merged[key] = start + sum(w * m for w, m in zip(weights, moves, strict=True))
            model.vit.load_state_dict({key: value.float() for key, value in merged.items()})
            with torch.no_grad():
                guess = model(**inputs).logits.argmax(dim=1).numpy()
            found[i, j] = (guess == images[name].labels[split]).mean()
    return found


def test_a_problem_shows_what_it_is():
    assert repr(tiny.net_problem(title="mine")) == (
        "MergeProblem('mine', a, b, c, GroupWise(model, n_var=3, groups=1, experts=3))"
    )


def test_objectives_are_the_errors_of_models_merged_by_plain_transformers(
    vit_pool, vit_tasks, vit_folders, images, rng
):
    problem = MergeProblem(vit_pool, vit_tasks)
    candidates = np.vstack([np.eye(3), np.zeros(3), rng.uniform(0, 1, (3, 3))])
    for split, found in (
        ("search", problem.evaluate(candidates)),
        ("test", problem.measured(candidates, split="test")),
    ):
        expected = 1 - _plain_accuracies(vit_folders, images, candidates, split)
        assert found == pytest.approx(expected, abs=1e-12)
        assert len(np.unique(found)) > 5


def test_shapes(problem):
    assert (problem.n_var, problem.n_obj, problem.n_constr) == (3, 3, 0)
    assert problem.xl.tolist() == [0, 0, 0]
    assert problem.xu.tolist() == [1, 1, 1]
    assert problem.evaluate(X).shape == (4, 3)
    assert problem.evaluate(X[0]).shape == (3,)
    assert problem.evaluate(X[:0]).shape == (0, 3)
    assert problem.task_names == ("a", "b", "c")
    assert problem.has_test_split
    assert problem.name() == "merge"


def test_individuals_carry_what_was_measured(problem):
    pop = _population(problem, X)
    assert pop.get("F") == pytest.approx(1 - pop.get("metric"))
    assert pop.get("cost").tolist() == [COST] * 4
    assert pop.get("failed").tolist() == [0, 0, 0, 0]
    assert (pop.get("seconds") > 0).all()
    for x, losses in zip(X, pop.get("loss"), strict=True):
        found = problem.record(x).measurements
        assert losses == pytest.approx([m.metrics["loss"] for m in found])


def test_one_candidate_at_a_time_gives_the_same(problem):
    alone = tiny.net_problem()
    assert (problem.evaluate(X) == np.stack([alone.evaluate(x) for x in X])).all()


def test_a_second_evaluation_costs_nothing(problem):
    first = _population(problem, X)
    paid = problem.counter.cost
    assert paid == 4 * COST
    second = _population(problem, X[::-1])
    assert problem.counter.cost == paid
    assert second.get("cost").tolist() == [0, 0, 0, 0]
    assert (second.get("F")[::-1] == first.get("F")).all()


def test_duplicates_within_a_batch_are_paid_once(problem):
    pop = _population(problem, X[[0, 1, 0, 0]])
    assert pop.get("cost").tolist() == [COST, COST, 0, 0]


def test_nearly_equal_candidates_are_not_confused(problem):
    problem.evaluate(X[:1])
    problem.evaluate(X[:1] + 1e-15)
    assert problem.counter.merges == 2


def test_splits_are_cached_apart(problem):
    search, test = problem.record(X[0]), problem.record(X[0], split="test")
    assert search.cost == COST
    assert test.cost == 3 * tiny.SIZES["test"]
    assert search.measurements != test.measurements
    assert problem.record(X[0], split="test") is test


def test_what_is_remembered_is_not_paid(problem):
    known = tiny.net_problem().record(X[0])
    problem.remember(X[0], known)
    assert (problem.evaluate(X[0]) == tiny.net_problem().evaluate(X[0])).all()
    assert problem.counter.cost == 0


def test_observers_see_every_candidate_in_order(problem):
    seen = []
    problem.observers.append(lambda x, evaluation, hit: seen.append((x.tolist(), hit)))
    problem.evaluate(X[[0, 1, 0]])
    problem.record(X[2], split="test")
    assert seen == [(X[0].tolist(), False), (X[1].tolist(), False), (X[0].tolist(), True)]


def test_evaluating_changes_no_argument(problem):
    before = X.copy()
    problem.evaluate(X)
    problem.measured(X, split="test")
    assert (before == X).all()


def test_integers_and_lists_are_welcome(problem):
    assert (problem.evaluate(np.eye(3, dtype=int)) == problem.evaluate(np.eye(3))).all()
    assert (problem.measured([[0, 1, 0]]) == problem.evaluate(X[1])).all()


def test_a_decision_vector_of_another_length_is_refused(problem):
    with pytest.raises(ConfigurationError, match=r"shape \(2,\), expected \(3,\)"):
        problem.record(np.zeros(2))


@pytest.mark.parametrize("objective", ["accuracy", "macro_f1", "loss"])
def test_every_metric_can_be_the_objective(objective):
    problem = tiny.net_problem(objective=objective)
    values = [[m.metrics[objective] for m in problem.record(x).measurements] for x in X]
    expected = np.array(values) if objective == "loss" else 1 - np.array(values)
    assert problem.evaluate(X) == pytest.approx(expected)


def test_other_spaces_see_the_same_models():
    plain = tiny.net_problem().evaluate(X[:3])
    for space in ("block-wise", "tensor-wise", {"kind": "depth-spline", "controls": 4}):
        problem = tiny.net_problem(space=space)
        assert problem.evaluate(problem.space.uniform(X[:3])) == pytest.approx(plain)


def test_a_space_may_be_a_function():
    from moofusion.merging import GroupWise

    problem = tiny.net_problem(
        space=lambda layout, experts: GroupWise(
            layout.partition("block"), experts, lower=-1.0, upper=2.0
        )
    )
    assert problem.n_var == 15
    assert (problem.xl.min(), problem.xu.max()) == (-1, 2)


def test_a_function_is_a_task_among_others():
    pool = tiny.net_pool()
    size = FunctionTask(
        "size", lambda m: m.head.weight.abs().sum().item(), direction="min", n_samples=2
    )
    problem = MergeProblem(pool, [*tiny.net_tasks(pool, ["a"]), size])
    F = problem.evaluate(X)
    assert F[1, 1] == pytest.approx(pool.experts["b"].head.weight.abs().sum().item())
    assert not problem.has_test_split
    pop = _population(problem, X[:1] / 2)
    assert pop.get("cost").tolist() == [tiny.SIZES["search"] + 2]
    assert np.isnan(pop.get("loss")[0, 1])


def test_other_splits_can_be_searched():
    problem = tiny.net_problem(split="train")
    assert (problem.evaluate(X) == tiny.net_problem().measured(X, split="train")).all()


# --------------------------------------------------------------------------------- scale


def test_anchors_are_the_base_and_the_experts(problem):
    anchors = problem.anchors()
    assert anchors.names == ("base", "a", "b", "c")
    assert (anchors.F == problem.evaluate(np.vstack([np.zeros(3), np.eye(3)]))).all()
    assert (anchors.ideal == anchors.F.min(axis=0)).all()
    assert (anchors.nadir == anchors.F.max(axis=0)).all()


def test_anchors_are_whole_models_whatever_the_space():
    part = tiny.net_problem(space={"kind": "block-wise", "select": "mlp"})
    assert (part.anchors().F == tiny.net_problem().anchors().F).all()


def test_anchors_are_measured_once_per_split(problem):
    problem.anchors()
    paid = problem.counter.merges
    assert paid == 4
    problem.anchors(), problem.normalize(np.zeros((1, 3)))
    assert problem.counter.merges == paid
    assert (problem.anchors("test").F != problem.anchors().F).any()


def test_normalizing_puts_the_best_anchor_at_zero_and_the_worst_at_one(problem):
    scaled = problem.normalize(problem.anchors().F)
    assert scaled.min(axis=0) == pytest.approx(0)
    assert scaled.max(axis=0) == pytest.approx(1)
    other = problem.normalize(problem.anchors("test").F, split="test")
    assert other.max(axis=0) == pytest.approx(1)


def test_normalizing_survives_anchors_that_agree():
    pool = tiny.net_pool()
    same = FunctionTask("same", lambda m: 0.5, best=1.0)
    problem = MergeProblem(pool, [*tiny.net_tasks(pool, ["a"]), same])
    assert np.isfinite(problem.normalize(problem.evaluate(X))).all()


# ------------------------------------------------------------------------------ with pymoo


def _run(problem, seed=1, **options):
    return minimize(problem, NSGA2(pop_size=8), ("n_eval", 40), seed=seed, **options)


def test_equal_seeds_give_equal_runs():
    first, second, third = (_run(tiny.net_problem(), seed) for seed in (1, 1, 2))
    assert (first.F == second.F).all()
    assert (first.X == second.X).all()
    assert first.X.shape != third.X.shape or (first.X != third.X).any()


def test_what_a_run_returns_is_what_the_problem_measures(problem):
    result = _run(problem)
    assert (tiny.net_problem().evaluate(result.X) == result.F).all()
    assert problem.counter.cost <= 40 * COST


def test_a_full_cache_changes_no_run(problem):
    first = _run(problem)
    paid = problem.counter.cost
    second = _run(problem)
    assert problem.counter.cost == paid
    assert (first.X == second.X).all()


def test_ask_and_tell_is_the_same_run(problem):
    algorithm = NSGA2(pop_size=8)
    algorithm.setup(problem, termination=("n_eval", 40), seed=1)
    while algorithm.has_next():
        asked = algorithm.ask()
        algorithm.evaluator.eval(problem, asked)
        algorithm.tell(infills=asked)
    assert (algorithm.result().F == _run(tiny.net_problem()).F).all()


def test_history_and_callbacks(problem):
    class Count(Callback):
        def notify(self, algorithm):
            self.data.setdefault("n", []).append(algorithm.evaluator.n_eval)

    result = _run(problem, save_history=True, callback=Count())
    assert result.algorithm.callback.data["n"] == [8, 16, 24, 32, 40]
    assert [len(entry.pop) for entry in result.history] == [8] * 5
    assert (result.history[-1].opt.get("F") == result.F).all()


def test_many_objective_algorithms_run():
    directions = get_reference_directions("das-dennis", 3, n_partitions=3)
    result = minimize(tiny.net_problem(), NSGA3(directions), ("n_eval", 30), seed=1)
    assert result.F.shape[1] == 3


# --------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy])
def test_copies_share_models_cache_and_observers(problem, clone):
    problem.evaluate(X)
    paid = problem.counter.cost
    twin = clone(problem)
    assert twin.evaluator is problem.evaluator
    assert (twin.evaluate(X) == problem.evaluate(X)).all()
    assert problem.counter.cost == paid


def test_a_deep_copy_has_bounds_of_its_own(problem):
    twin = copy.deepcopy(problem)
    twin.xu[0] = 0.5
    assert problem.xu[0] == 1


def test_observers_of_a_deep_copy_are_the_same(problem):
    seen = []
    problem.observers.append(lambda *args: seen.append(args))
    copy.deepcopy(problem).evaluate(X[:1])
    assert len(seen) == 1


def test_pickles_are_small_and_work(problem):
    F = problem.evaluate(X)
    problem.observers.append(print)
    data = pickle.dumps(problem)
    assert len(data) < 100_000
    twin = pickle.loads(data)
    assert (twin.evaluate(X) == F).all()
    assert twin.observers == []


def test_pickles_do_not_grow_with_models_data_or_cache(vit_pool, vit_tasks, rng):
    problem = MergeProblem(vit_pool, vit_tasks)
    fresh = len(pickle.dumps(problem))
    for x in rng.uniform(0, 1, (20, 3)):
        problem.record(x)
    assert len(pickle.dumps(problem)) <= fresh + 100
    assert fresh < 20_000


# ------------------------------------------------------------------------------ bad input


def test_no_tasks():
    with pytest.raises(ConfigurationError, match="at least one task"):
        MergeProblem(tiny.net_pool(), [])


def test_two_tasks_of_one_name():
    pool = tiny.net_pool()
    with pytest.raises(ConfigurationError, match=r"different names; \['a'\] occur twice"):
        MergeProblem(pool, tiny.net_tasks(pool, ["a", "b", "a"]))


def test_a_task_without_the_split_that_is_searched():
    size = FunctionTask("size", lambda m: 0.0)
    with pytest.raises(DataError, match="'size' was built without a 'test' split"):
        MergeProblem(tiny.net_pool(), [size], split="test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "layer-wise"}, "unknown space 'layer-wise'"),
        ({"space": {"kind": "task-wise", "uper": 2}}, "uper"),
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigurationError, match=message):
        tiny.net_problem(**options)


def test_an_unknown_task_of_a_gradient(problem):
    with pytest.raises(UnknownNameError, match="unknown task 'd'"):
        problem.loss_and_grad(X[0], "d")
