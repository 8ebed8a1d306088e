"""Memory of a training step: no more than plain fine-tuning of one model, whatever K is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

ROOT = Path(tiny.__file__).parent.parent

WORKER = """
import sys
import numpy as np, tiny, torch
from _common import peak_bytes
from moofusion.algorithms import ParetoRouter, RouterTraining
from moofusion.problems import MergeProblem
from moofusion.weights import ModelPool
torch.set_num_threads(1)
experts = {n: tiny.drift(tiny.net(width=1024), i, 0.01) for i, n in enumerate("abcd")}
pool = ModelPool(tiny.net(width=1024), experts)
space = {"kind": "module-wise", "lower": -2.0, "upper": 3.0}
problem = MergeProblem(pool, tiny.net_tasks(pool), space=space)
router = ParetoRouter(problem, routed="all", rng=np.random.default_rng(0))
training = RouterTraining(problem, router, steps=9, batch_size=4, scalarization="epo")
model = problem.evaluator.pool.model

def fine_tune():
    gradient = model.gradient_buffer(problem.space.partition)
    for task, rows in zip(problem.tasks, training.batches(0), strict=True):
        task.loss(problem.evaluator.module(task), "train", rows).backward()
    parameter = torch.nn.Parameter(model.weights)
    parameter.grad = gradient
    torch.optim.Adam([parameter]).step()

call = {"router": lambda: (training.step(), training.step()), "network": fine_tune}[sys.argv[1]]
print(peak_bytes(call), 4 * problem.evaluator.pool.layout.size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_step_takes_less_memory_than_fine_tuning_one_model():
    paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    peak = {}
    for kind in ("router", "network"):
        done = subprocess.run(
            [sys.executable, "-c", WORKER, kind],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        peak[kind], one_model = (int(number) for number in done.stdout.split())
    assert peak["router"] < 1.5 * one_model  # one gradient, and what the batch activates
    assert peak["network"] > 2.5 * one_model  # a gradient and Adam's two moments
