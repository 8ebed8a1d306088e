"""MAP: within its budget, inside what was sampled, learning from everything it has paid for."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.optimize import minimize
from pymoo.termination.max_eval import MaximumFunctionCallTermination

from moofusion.algorithms.map import MAP, BayesianMAP, GradientMAP, NestedMAP, ReferenceMAP
from moofusion.algorithms.map.design import anchor_points, candidate_points, d_optimal, shell
from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging import GroupWise
from moofusion.surrogates import n_parameters
from moofusion.surrogates.features import quadratic_features
from moofusion.weights import ParameterLayout

ALL = {
    "map": lambda: MAP(),
    "gp": lambda: MAP(surrogate="gp"),
    "bayes": lambda: BayesianMAP(),
    "bins": lambda: BayesianMAP(scheme="bins"),
    "nested": lambda: NestedMAP(),
    "reference": lambda: ReferenceMAP(),
}


class Stand:
    """The part of a problem that a design looks at."""

    def __init__(self, K):
        layout = ParameterLayout({"w": (2,)})
        self.space = GroupWise(layout.partition("model"), [f"e{k}" for k in range(K)])
        self.xl, self.xu, self.n_var = self.space.xl, self.space.xu, K


def run(algorithm, problem=None, budget=30, seed=1):
    return minimize(problem or tiny.net_problem(), algorithm, ("n_eval", budget), seed=seed)


@pytest.mark.parametrize("K", [*range(2, 13), 16])
def test_the_design_determines_a_quadratic(K, rng):
    problem = Stand(K)
    anchors, _ = anchor_points(problem)
    rows = {tuple(row) for row in anchors.round(9).tolist()}
    assert tuple(np.zeros(K)) in rows
    assert tuple(np.full(K, round(1 / K, 9))) in rows
    assert {tuple(row) for row in np.eye(K).tolist()} <= rows
    p = n_parameters(K)
    candidates = candidate_points(problem, (0.4, 1.5), rng)
    X = np.vstack([anchors, d_optimal(candidates, anchors, max(p - len(anchors), 0))])
    # With a few more than p where the anchors are on one line through the base.
    if np.linalg.matrix_rank(quadratic_features(X)) < p:
        X = np.vstack([X, d_optimal(candidates, X, 3)])
    assert np.linalg.matrix_rank(quadratic_features(X)) == p
    assert len(X) <= max(p, len(anchors)) + 3


def test_the_design_beats_random_points_in_the_determinant(rng):
    problem = Stand(4)
    candidates = candidate_points(problem, (0.4, 1.5), rng)
    anchors, _ = anchor_points(problem)

    def volume(X):
        rows = quadratic_features(X)
        return np.linalg.slogdet(rows.T @ rows)[1]

    chosen = volume(np.vstack([anchors, d_optimal(candidates, anchors, 12)]))
    for _ in range(20):
        drawn = candidates[rng.choice(len(candidates), 12, replace=False)]
        assert chosen > volume(np.vstack([anchors, drawn]))


def test_candidates_have_the_sums_around_the_best_of_the_pilot(rng):
    sums = np.array([1.0, 0.0, 1.6])
    F = 1 - np.array([[0.4, 3.0], [0.1, 1.0], [0.38, 2.8]])  # best between the last two
    low, high = shell(sums, F)
    assert 0.8 < low < 0.9 < 1.5 < high < 1.7
    X = candidate_points(Stand(4), (low, high), rng)
    assert X.min() >= 0
    assert low - 1e-9 <= X.sum(axis=1).min()
    assert X.sum(axis=1).max() <= high + 1e-9
    # Still rising at the end of the pilot: beyond it, but not without limit.
    assert shell(sums, -sums[:, None])[1] == pytest.approx(1.3 * 1.5 * 1.6)
    # Nothing but losses: short merges, but not the base alone.
    assert shell(sums, sums[:, None])[0] > 0.3
    # No pilot.
    assert shell(sums[:1], F[:1]) == (0.7, 1.3)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("budget", [20, 33])
def test_the_budget_is_kept_and_equal_seeds_give_equal_runs(name, budget):
    if name == "gp":
        pytest.importorskip("sklearn", reason="the extra [gp] is not installed")
    first, second, other = (run(ALL[name](), budget=budget, seed=s) for s in (1, 1, 2))
    assert first.algorithm.evaluator.n_eval == budget
    assert (first.algorithm.evaluated.get("X") == second.algorithm.evaluated.get("X")).all()
    if name != "nested":  # a fixed design, and few candidates to choose among
        assert (first.algorithm.evaluated.get("X") != other.algorithm.evaluated.get("X")).any()


@pytest.mark.parametrize("algorithm", [MAP, BayesianMAP])
def test_what_is_verified_lies_inside_what_was_sampled(algorithm):
    # The public code searches [-3, 3] around samples of [0, 1].
    result = run(algorithm(n_samples=16, rounds=1), budget=24)
    everything = np.asarray(result.algorithm.evaluated.get("X"), float)
    design, verified = everything[:16], result.algorithm.predicted.X
    assert len(verified) == 8
    rows = quadratic_features(np.vstack([design, verified]))
    inverse = np.linalg.pinv(rows[:16].T @ rows[:16])
    leverage = np.einsum("pi,ij,pj->p", rows, inverse, rows)
    assert leverage[16:].max() <= leverage[:16].max() + 1e-6


def test_predictions_are_verified_and_the_gap_is_their_difference():
    problem = tiny.net_problem()
    algorithm = run(MAP(), problem).algorithm
    predicted = algorithm.predicted
    real = problem.measured(predicted.X)
    np.testing.assert_array_equal(algorithm.measured(predicted.X), real)
    gap = algorithm.gap()
    assert list(gap.index) == ["a", "b", "c"]
    np.testing.assert_allclose(gap.iloc[:, 0], (real - predicted.F).mean(axis=0), atol=1e-12)


def test_everything_evaluated_is_fitted_and_nothing_is_overwritten():
    # The public Bayesian variant scores without the new points, and writes them over old ones.
    algorithm = run(BayesianMAP(rounds=3), budget=30).algorithm
    X = np.asarray(algorithm.evaluated.get("X"), float)
    assert len(np.unique(X, axis=0)) == len(X) == 30
    assert algorithm.surrogate.models[0].n_points == 30


def test_the_optimum_is_the_archive_of_everything():
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    result = run(MAP())
    F = np.asarray(result.algorithm.evaluated.get("F"), float)
    front = F[NonDominatedSorting().do(F)[0]]
    assert {tuple(f) for f in result.F} == {tuple(f) for f in front}


def test_base_experts_and_the_uniform_merge_are_evaluated():
    # The public code samples a cube or its corners and evaluates none of them.
    X = np.asarray(run(MAP()).algorithm.evaluated.get("X"), float)
    for row in [np.zeros(3), np.full(3, 1 / 3), *np.eye(3)]:
        assert (np.abs(X - row).max(axis=1) < 1e-9).any()
    # Three of them and more are convex combinations of the experts.
    convex = np.isclose(X.sum(axis=1), 1) & (X.min(axis=1) >= 0)
    assert convex.sum() > 3


def test_failed_candidates_are_left_out_of_the_fit():
    problem = tiny.net_problem()
    measure = problem.evaluator.measure
    spoiled = []

    def broken(L, split, **options):
        found = measure(L, split, **options)
        if len(spoiled) < 2 and split == "search" and 0.2 < L.sum() < 0.9:
            spoiled.append(L)
            return [replace(found[0], failed=True)]
        return found

    problem.evaluator.measure = broken
    with pytest.warns(UserWarning, match="recorded as failed"):
        algorithm = run(MAP(), problem).algorithm
    assert len(spoiled) == 2
    assert algorithm.surrogate.models[0].n_points == 28


def test_a_surrogate_is_searched_at_no_cost():
    problem = tiny.net_problem()
    surrogate = run(MAP(), problem).algorithm.surrogate
    paid = problem.counter.cost
    found = minimize(surrogate.problem(), NSGA2(pop_size=40), ("n_gen", 10), seed=1)
    assert problem.counter.cost == paid
    assert found.F.shape[1] == 3
    for attribute in ("A", "b", "e"):
        assert np.isfinite(getattr(surrogate.models[0], attribute)).all()


def test_gradients_replace_evaluations_and_are_charged():
    problem = tiny.net_problem(objective="loss")
    paid = []
    problem.gradient_observers.append(lambda cost, seconds: paid.append(cost))
    result = run(GradientMAP(share=1.0), problem, budget=6)
    algorithm = result.algorithm
    assert algorithm.n_gradients_taken == 4
    assert paid == [3.0 * 3 * tiny.SIZES["search"]] * 4
    assert algorithm.evaluator.n_eval == 6
    # Values alone would leave the ten parameters of the quadratic undetermined.
    assert algorithm.surrogate.models[0].note == ""


def test_gradients_are_taken_on_a_share_where_candidates_are_evaluated(monkeypatch):
    monkeypatch.setattr("moofusion.algorithms.map.gradient._LEAST_SAMPLES", 4)
    problem = tiny.net_problem(objective="loss")
    taken, paid = [], []
    whole = problem.losses_and_grads

    def watched(x, **options):
        taken.append((x.tobytes(), [rows.tobytes() for rows in options["indices"]]))
        return whole(x, **options)

    monkeypatch.setattr(problem, "losses_and_grads", watched)
    problem.gradient_observers.append(lambda cost, seconds: paid.append(cost))
    algorithm = minimize(
        problem, GradientMAP(share=0.25), ("n_eval", 7), seed=1, copy_algorithm=False
    ).algorithm
    share = sum(round(0.25 * tiny.SIZES["search"]) for _ in problem.tasks)
    assert paid == [3.0 * share] * 4
    # The same samples at every point, and each point is a candidate that counts once.
    assert len({tuple(rows) for _, rows in taken}) == 1
    evaluated = [row.tobytes() for row in algorithm.evaluated.get("X")]
    assert [x for x, _ in taken] == evaluated[:4]
    assert len(set(evaluated)) == 7


def test_gradients_are_part_of_a_budget_of_cost():
    problem = tiny.net_problem(objective="loss")
    one = len(problem.tasks) * tiny.SIZES["search"]
    termination = MaximumFunctionCallTermination(100)
    termination.max_cost = 20 * one
    result = minimize(problem, GradientMAP(share=1.0), termination, seed=1)
    assert len(result.algorithm.evaluated) == 20 - 4 * 3
    with pytest.raises(ConfigurationError, match="share must be above 0 and at most 1, got 0"):
        GradientMAP(share=0)


def test_nested_merging_follows_the_preference():
    chosen = [
        run(NestedMAP(preference=preference), budget=27).algorithm.chosen
        for preference in ("a=8,b=1,c=1", "a=1,b=1,c=8")
    ]
    assert chosen[0][0] > chosen[1][0]
    assert chosen[0][2] < chosen[1][2]
    cosine = run(NestedMAP(pairing="cosine"), budget=27).algorithm
    assert cosine.chosen.shape == (3,)


def test_nested_merging_compares_groups_on_one_scale(monkeypatch):
    # The public code sets percentages of one task against fractions of another.
    plain = run(NestedMAP(), budget=27).algorithm
    problem = tiny.net_problem()
    task = problem.tasks[1]
    evaluate = task.evaluate

    def in_percent(module, split):
        found = evaluate(module, split)
        return replace(found, metrics={k: 100 * v for k, v in found.metrics.items()})

    monkeypatch.setattr(task, "evaluate", in_percent)
    task.objective = replace(task.objective, best=100.0, worst=100.0)
    scaled = run(NestedMAP(), problem, budget=27).algorithm
    assert problem.anchors().F[0, 1] > 1
    np.testing.assert_array_equal(scaled.evaluated.get("X")[:6], plain.evaluated.get("X")[:6])
    np.testing.assert_allclose(scaled._groups[-1].quality, plain._groups[-1].quality, atol=0.05)


def test_the_gap_counts_what_was_predicted_alone():
    algorithm = run(NestedMAP(), tiny.net_problem("abcd", list("abcd")), budget=40).algorithm
    gap = algorithm.gap()
    assert np.isfinite(gap.to_numpy(float)).all()
    assert gap["points"].max() <= len(algorithm.predicted.X)
    assert gap["points"].min() < len(algorithm.predicted.X)


def test_the_published_procedure_samples_the_cube():
    algorithm = run(ReferenceMAP(), budget=30).algorithm
    X = np.asarray(algorithm.evaluated.get("X"), float)
    assert X[:20].min() >= 0
    assert X[:20].max() <= 1
    assert X[:20].sum(axis=1).mean() == pytest.approx(1.5, abs=0.4)
    assert algorithm.surrogate.table().shape[0] == 3


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(UnknownNameError, match="surrogate 'cubic'"):
        MAP(surrogate="cubic")
    with pytest.raises(ConfigurationError, match="rounds must be at least 1"):
        MAP(rounds=0)
    with pytest.raises(UnknownNameError, match="pairing"):
        NestedMAP(pairing="random")
    with pytest.raises(ConfigurationError, match="two or more experts"):
        run(NestedMAP(), tiny.net_problem(tasks=["a"]))
