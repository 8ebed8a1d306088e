"""Two processes train one router: same preferences, different samples, equal weights."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from moofusion.algorithms import ParetoRouter, RouterTraining
from moofusion.algorithms.ranks import mean_over_ranks, rank_and_world

SPACE = {"kind": "module-wise", "lower": -2.0, "upper": 3.0}

WORKER = """
import sys
import numpy as np, tiny, torch
from moofusion.algorithms import ParetoRouter, RouterTraining
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=2)
problem = tiny.net_problem(space={"kind": "module-wise", "lower": -2.0, "upper": 3.0})
router = ParetoRouter(problem, routed="all", rng=np.random.default_rng(0))
training = RouterTraining(
    problem, router, steps=24, lr=3e-2, batch_size=5, seed=3, scalarization="epo",
    checkpoint=out + "/training.safetensors")
first = np.concatenate(training.batches(0))
training.run()
np.savez(f"{out}/{rank}.npz", theta=router.theta, r=training.preferences, rows=first,
         losses=training.losses)
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    tests = Path(tiny.__file__).parent
    paths = [str(tests.parent), str(tests)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(folder / "store"), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, error = worker.communicate(timeout=120)
        assert worker.returncode == 0, error.decode()
    return [np.load(folder / f"{rank}.npz") for rank in range(2)]


def test_weights_and_preferences_are_equal_and_samples_are_not(ranks):
    first, second = ranks
    assert (first["theta"] == second["theta"]).all()
    assert (first["r"] == second["r"]).all()
    assert (first["losses"] == second["losses"]).all()
    assert set(first["rows"][:5]).isdisjoint(second["rows"][:5])


def test_two_ranks_are_one_process_with_twice_the_batch(ranks):
    problem = tiny.net_problem(space=SPACE)
    router = ParetoRouter(problem, routed="all", rng=np.random.default_rng(0))
    training = RouterTraining(
        problem, router, steps=24, lr=3e-2, batch_size=10, seed=3, scalarization="epo"
    )
    training.run()
    assert ranks[0]["losses"] == pytest.approx(training.losses, rel=1e-3)
    assert ranks[0]["theta"] == pytest.approx(router.theta, abs=2e-3)


def test_a_single_process_is_its_own_mean():
    assert rank_and_world() == (0, 1)
    (same,) = mean_over_ranks(np.arange(3.0))
    assert same.tolist() == [0, 1, 2]
