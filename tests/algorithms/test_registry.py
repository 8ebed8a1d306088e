"""Algorithms by name: all of them run, repeat, and are refused clearly."""

import importlib.util

import numpy as np
import pytest
import tiny
from pymoo.optimize import minimize
from pymoo.problems import get_problem as pymoo_problem

from moofusion.algorithms import ALGORITHMS, RandomSearch, get_algorithm
from moofusion.algorithms.evolution import EVOLUTION
from moofusion.algorithms.gradient_entries import GRADIENT_ENTRIES
from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.problems import Constraint

MERGE_ONLY = {"grid", "soup", *GRADIENT_ENTRIES, "map_gradient", "map_nested", "map_reference"}
# A few steps on everything, in bounds that clip nothing here.
BRIEF = {
    "pwemoe": "pwemoe:steps=5,routed=all",
    "constant": "constant:steps=5,routed=all",
    "scalarization": "scalarization:steps=5",
}
EVOLUTIONARY = sorted(EVOLUTION)
needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None,
    reason="pymoo's AGE-MOEA-II needs numba, which is not installed",
)


def _marked(names):
    return [pytest.param(n, marks=needs_numba) if n == "agemoea2" else n for n in sorted(names)]


def _run(name, problem, seed=1, budget=60):
    algorithm = get_algorithm(BRIEF.get(name, name), problem)
    return minimize(problem, algorithm, ("n_eval", budget), seed=seed)


@pytest.mark.parametrize("name", _marked(set(ALGORITHMS) - {"moead", "checkpoints"}))
def test_every_algorithm_searches_merges_under_a_constraint(name):
    limit = [Constraint("a", at_least=0.8)]
    first, second = (_run(name, tiny.net_problem(constraints=limit)) for _ in "ab")
    assert (first.X == second.X).all()
    assert (first.F[:, 0] <= 0.2 + 1e-12).all()


@pytest.mark.parametrize("name", _marked(set(ALGORITHMS) - MERGE_ONLY))
def test_problems_of_pymoo_are_searched_too(name):
    problem = pymoo_problem("dtlz2", n_var=7, n_obj=3)
    spent = _run(name, problem, budget=45).algorithm.evaluator.n_eval
    assert 45 <= spent < 45 + 20


@pytest.mark.parametrize("name", _marked(set(ALGORITHMS) - {"map_nested", "checkpoints"}))
def test_one_objective_is_searched_or_refused(name):
    problem = tiny.net_problem(tasks=["a"])
    if name in ("agemoea", "agemoea2", "ctaea", "moead", "rvea", "smsemoa"):
        with pytest.raises(ConfigurationError, match=f"{name} needs at least two objectives"):
            get_algorithm(name, problem)
    else:
        assert _run(name, problem, budget=40).F[0] < problem.anchors().F[0, 0]


def test_rvea_needs_to_know_how_long_it_will_run(shared_problem):
    with pytest.raises(ConfigurationError, match="give it a budget of evaluations"):
        minimize(shared_problem, get_algorithm("rvea", shared_problem), ("time", 1), seed=1)


def test_rvea_takes_any_termination_that_counts_evaluations(shared_problem):
    from pymoo.core.termination import Termination

    class Counting(Termination):
        n_max_evals = 45

        def _update(self, algorithm):
            return algorithm.evaluator.n_eval / self.n_max_evals

    algorithm = get_algorithm("rvea", shared_problem)
    result = minimize(shared_problem, algorithm, Counting(), seed=1)
    assert 45 <= result.algorithm.evaluator.n_eval < 65


@pytest.mark.parametrize("name", _marked(EVOLUTIONARY))
def test_searches_start_where_merges_work(name):
    first = []
    problem = tiny.net_problem()
    problem.observers.append(lambda x, evaluation, hit: first.append(x))
    _run(name, problem, budget=20)
    assert np.array(first)[:15].sum(axis=1).max() <= 1.5
    boxed = []
    problem = tiny.net_problem()
    problem.observers.append(lambda x, evaluation, hit: boxed.append(x))
    _run(f"{name}:sampling=box", problem, budget=20)
    assert np.array(boxed)[:15].sum(axis=1).max() > 1.5


def test_parameters_are_read(shared_problem):
    assert get_algorithm("nsga2:pop_size=14", shared_problem).pop_size == 14
    assert get_algorithm("random:batch_size=3", shared_problem).batch_size == 3
    grid = get_algorithm("grid:n_points=9,total=0.5", shared_problem)
    assert (grid.n_points, grid.total) == (9, 0.5)
    assert get_algorithm("soup:scale=1", shared_problem).scale == 1
    assert get_algorithm("nsga2:", shared_problem).pop_size == 20
    assert isinstance(get_algorithm("random", shared_problem), RandomSearch)


@pytest.mark.parametrize("name", ["nsga3", "unsga3", "rvea", "moead"])
@pytest.mark.parametrize("size", [6, 20])
def test_directions_fit_the_population(name, size):
    problem = pymoo_problem("dtlz2", n_var=7, n_obj=3)
    directions = get_algorithm(f"{name}:pop_size={size}", problem).ref_dirs
    assert 3 <= len(directions) <= size
    assert directions.sum(axis=1) == pytest.approx(1)


def test_algorithms_of_one_name_share_nothing(shared_problem):
    one, two = (get_algorithm("spea2", shared_problem) for _ in "ab")
    assert one is not two
    assert one.mating is not two.mating
    assert one.survival is not two.survival


def test_every_algorithm_lists_its_parameters():
    for entry in ALGORITHMS.values():
        assert entry.summary
        assert entry.parameters
        assert "problem" not in entry.parameters


def test_an_unknown_algorithm(shared_problem):
    with pytest.raises(UnknownNameError, match="unknown algorithm 'nsga'; did you mean 'nsga"):
        get_algorithm("nsga", shared_problem)


def test_an_unknown_parameter(shared_problem):
    with pytest.raises(UnknownNameError, match=r"parameter of nsga2 'popsize'.*'pop_size'"):
        get_algorithm("nsga2:popsize=3", shared_problem)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nsga2:pop_size", "cannot read 'pop_size'; expected a form such as nsga2:pop_size=value"),
        ("nsga2:pop_size=many", "pop_size must be a whole number of at least 1, got 'many'"),
        ("nsga2:pop_size=0", "at least 1, got 0"),
        ("nsga3:pop_size=-5", "at least 1, got -5"),
        ("nsga2:pop_size=2.5", "whole number of at least 1, got 2.5"),
        ("nsga2:pop_size=true", "whole number of at least 1, got True"),
        ("nsga2:pop_size=", "whole number of at least 1, got ''"),
        ("random:batch_size=x", "batch_size must be a whole number"),
        ("grid:n_points=few", "n_points must be a whole number"),
        ("grid:total=much", "total must be a number, got 'much'"),
        ("pwemoe:steps=0", "steps must be a whole number of at least 1"),
        ("pwemoe:hidden_layers=9", "hidden_layers must be 0 to 3, got 9"),
        ("pwemoe:scalarization=sum", "unknown scalarization 'sum'"),
        ("scalarization:lr=fast", "lr must be a number"),
        ("grid:total=-1", "total must be positive, got -1"),
        ("soup:scale=inf", "scale must be a number, got inf"),
        ("nsga2:sampling=sobol", "unknown sampling 'sobol'. Known: box, coefficients"),
    ],
)
def test_values_that_make_no_sense(text, message, shared_problem):
    with pytest.raises(ConfigurationError) as caught:
        get_algorithm(text, shared_problem)
    assert message in str(caught.value)


def test_sms_emoa_stops_at_four_objectives():
    assert get_algorithm("smsemoa", pymoo_problem("dtlz2", n_var=7, n_obj=4))
    with pytest.raises(ConfigurationError, match=r"unusable above 4 objectives.*has 5"):
        get_algorithm("smsemoa", pymoo_problem("dtlz2", n_var=7, n_obj=5))


def test_moead_refuses_constraints():
    problem = tiny.net_problem(constraints=[Constraint("a", at_least=0.5)])
    with pytest.raises(ConfigurationError, match="moead cannot handle constraints"):
        get_algorithm("moead", problem)
