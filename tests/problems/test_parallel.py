"""Problems in threads and in other processes."""

import pickle
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
import tiny
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.optimize import minimize
from pymoo.parallelization import StarmapParallelization

from moofusion.errors import ConfigurationError

X = np.array([[0.2, 0.3, 0.4], [0.0, 1.0, 0.0], [0.9, 0.1, 0.5]])


def _elsewhere(problem):
    """What another process finds."""
    import os

    result = minimize(problem, NSGA2(pop_size=6), ("n_eval", 18), seed=1)
    losses = problem.loss_and_grad(X[0], "a")
    return os.getpid(), problem.evaluate(X), problem.fingerprint(), result.X, losses


class Threads:
    """A runner of pymoo around joblib, small enough to be copied with the problem."""

    def __call__(self, f, X):
        return Parallel(n_jobs=2, backend="threading")(delayed(f)(x) for x in X)


class Processes:
    """The same around a process of its own."""

    def __call__(self, f, X):
        return list(get_reusable_executor(max_workers=1).map(f, X))


@pytest.fixture(scope="module")
def process():
    """One other process, which stays for all tests of this file."""
    executor = get_reusable_executor(max_workers=1)
    yield executor
    executor.shutdown(wait=True, kill_workers=True)


def test_another_process_finds_the_same(process):
    problem = tiny.net_problem()
    expected, found = _elsewhere(problem), process.submit(_elsewhere, problem).result()
    assert found[0] != expected[0]
    assert (found[1] == expected[1]).all()
    assert found[2] == expected[2]
    assert (found[3] == expected[3]).all()
    # Sums of float32 in the backward pass depend on the number of threads a worker has.
    assert found[4][0] == pytest.approx(expected[4][0], rel=1e-5)
    np.testing.assert_allclose(found[4][1], expected[4][1], rtol=1e-4, atol=1e-6)


def test_problems_of_the_catalogue_travel_too(process):
    from moofusion import get_problem

    problem = get_problem("vision4", tasks=["animals"], device="cpu")
    assert len(pickle.dumps(problem)) < 20_000
    assert process.submit(problem.fingerprint).result() == problem.fingerprint()


@pytest.mark.parametrize("runner", ["processes", "threads", "starmap"])
def test_runners_of_pymoo_change_no_result(runner, process):
    expected = minimize(tiny.net_problem(), NSGA2(pop_size=6), ("n_eval", 18), seed=1)
    with ThreadPool(2) as pool:
        run = {
            "processes": Processes(),
            "threads": Threads(),
            "starmap": StarmapParallelization(pool.starmap),
        }[runner]
        problem = tiny.net_problem(elementwise=True, elementwise_runner=run)
        # pymoo's own StarmapParallelization loses its pool in every copy.
        history = runner != "starmap"
        found = minimize(problem, NSGA2(pop_size=6), ("n_eval", 18), seed=1, save_history=history)
    assert (found.X == expected.X).all()
    assert (found.F == expected.F).all()
    assert found.pop.get("cost").shape == expected.pop.get("cost").shape


def test_threads_share_one_problem():
    problem = tiny.net_problem()
    rows = np.random.default_rng(0).uniform(0, 1, (30, 3))
    found = Parallel(n_jobs=3, backend="threading")(delayed(problem.evaluate)(x) for x in rows)
    assert (np.array(found) == tiny.net_problem().evaluate(rows)).all()


def test_runs_in_threads_are_the_runs_alone():
    def run(seed):
        return minimize(shared, NSGA2(pop_size=6), ("n_eval", 18), seed=seed).X

    shared = tiny.net_problem()
    together = Parallel(n_jobs=3, backend="threading")(delayed(run)(seed) for seed in (1, 2, 3))
    shared = tiny.net_problem()
    for seed, found in zip((1, 2, 3), together, strict=True):
        assert (run(seed) == found).all()


def test_a_pickle_that_outlives_its_problem_says_so():
    data = pickle.dumps(tiny.net_problem())
    import gc

    gc.collect()
    with pytest.raises(ConfigurationError, match="outlived the problem it was pickled from"):
        pickle.loads(data).evaluate(X)


def test_the_file_behind_a_pickle_goes_with_the_problem():
    problem = tiny.net_problem()
    pickle.dumps(problem)
    file = problem._handle._file
    assert file.exists()
    del problem
    import gc

    gc.collect()
    assert not file.exists()
