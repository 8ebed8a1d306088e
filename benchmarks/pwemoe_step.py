"""One PWEMoE training step against one plain fine-tuning step on the same batches.

The fine-tuning step is what no method on labelled data can save: one forward and backward pass of
every task's batch through the whole network, and Adam on all of its weights. The third is PWEMoE as
one would write it first: the merged weights as a weighted sum in the autograd graph. Times are
taken in turns in one process; memory is the peak beyond what is resident, each in a process of its
own. The aim is at most 1.15 times the time of fine-tuning.

    python benchmarks/pwemoe_step.py --rounds 30
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
from _common import alternate, median_and_spread, peak_bytes, print_json, print_table

STEPS = ("fine-tuning", "PWEMoE", "weighted sum in the graph")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", default="vision4")
    parser.add_argument("--tasks", help="keep these tasks, separated by commas")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--routed", default="mlp")
    parser.add_argument("--scalarization", default="ls")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, help="by default all that torch takes")
    parser.add_argument("--peak-of", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()

    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    calls = _steps(options)
    if options.peak_of:
        print(peak_bytes(calls[options.peak_of]))
        return
    times = alternate(calls, rounds=options.rounds)
    peaks = {name: _peak(name) for name in STEPS}
    plain = times["fine-tuning"]
    rows, ratios = [], {}
    for name, values in times.items():
        middle, low, high = median_and_spread(values)
        ratios[name] = median_and_spread([a / b for a, b in zip(values, plain, strict=True)])[0]
        rows.append(
            [
                name,
                f"{1000 * middle:.2f}",
                f"{1000 * low:.2f} .. {1000 * high:.2f}",
                f"{ratios[name]:.3f}",
                f"{peaks[name] / 2**20:.1f}",
            ]
        )
    print_table([f"{options.problem}, one step", "ms", "quartiles", "ratio", "peak MiB"], rows)
    print_json(
        "pwemoe_step",
        problem=options.problem,
        batch_size=options.batch_size,
        routed=options.routed,
        scalarization=options.scalarization,
        rounds=options.rounds,
        seconds={name: median_and_spread(values)[0] for name, values in times.items()},
        ratio=ratios,
        peak_bytes=peaks,
        aim=1.15,
    )


def _peak(name: str) -> int:
    """Peak memory of one kind of step, in a fresh process."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, *sys.argv, "--peak-of", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def _steps(options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    import moofusion
    from moofusion.algorithms import ParetoRouter, RouterTraining

    tasks = options.tasks.split(",") if options.tasks else None
    problem = moofusion.get_problem(
        options.problem,
        tasks=tasks,
        space="module-wise",
        overrides={"space.lower": -5.0, "space.upper": 5.0},
    )
    router = ParetoRouter(problem, routed=options.routed, rng=np.random.default_rng(0))
    training = RouterTraining(
        problem,
        router,
        steps=10**6,
        batch_size=options.batch_size,
        scalarization=options.scalarization,
    )
    for task in problem.tasks:
        task.data("train")
    return {
        "fine-tuning": _fine_tuning(problem, training.batches),
        "PWEMoE": training.step,
        "weighted sum in the graph": _weighted_sum(problem, router, training),
    }


def _fine_tuning(problem: object, batches: Callable[[int], list]) -> Callable[[], object]:
    import torch

    evaluator = problem.evaluator
    model, partition = evaluator.pool.model, evaluator.pool.layout.partition("model")
    optimizer = torch.optim.Adam([torch.nn.Parameter(model.weights)], lr=1e-5)
    steps = iter(range(10**9))

    def step() -> None:
        gradient = model.gradient_buffer(partition)
        for task, rows in zip(problem.tasks, batches(next(steps)), strict=True):
            task.loss(evaluator.module(task), "train", rows).backward()
        optimizer.param_groups[0]["params"][0].grad = gradient
        optimizer.step()
        model.release_gradients()

    return step


def _weighted_sum(problem: object, router: object, training: object) -> Callable[[], object]:
    import torch
    from torch.func import functional_call

    evaluator = problem.evaluator
    vectors, layout = evaluator.pool.vectors, evaluator.pool.layout
    groups, rows_of = evaluator.space.partition.groups, router.rows
    shapes = dict(router.network.shapes)
    theta = {
        name: torch.tensor(part, dtype=torch.float32).requires_grad_()
        for name, part in router.network.split(router.theta).items()
    }
    assert len(shapes) == 4
    optimizer = torch.optim.Adam(list(theta.values()), lr=1e-2)
    static = torch.tensor(evaluator.space.static, dtype=torch.float32)
    names = {id(task): _names(evaluator, task) for task in problem.tasks}
    steps = iter(range(10**9))

    def step() -> None:
        number = next(steps)
        r = torch.tensor(training.preference(number), dtype=torch.float32)
        hidden = torch.relu(theta["W1"] @ r + theta["b1"])
        rows = torch.einsum("roi,ri->ro", theta["W2"], hidden) + theta["b2"]
        merged = {}
        for entry, group in zip(layout.entries, groups, strict=True):
            router_row = rows_of[group] if group >= 0 else -1
            row = rows[router_row] if router_row >= 0 else static
            parts = vectors.deltas[:, entry.slice].view(-1, *entry.shape)
            value = vectors.base[entry.slice].view(entry.shape)
            merged[entry.name] = value + torch.tensordot(row, parts, 1)
        loss = 0.0
        for weight, task, batch in zip(r, problem.tasks, training.batches(number), strict=True):
            inputs, labels = task.data("train")
            picked = torch.as_tensor(batch)
            weights = {full: merged[short] for full, short in names[id(task)].items()}
            keywords = {key: value[picked] for key, value in inputs.items()}
            scores = functional_call(evaluator.module(task), weights, kwargs=keywords).logits
            loss = loss + weight * torch.nn.functional.cross_entropy(scores, labels[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _names(evaluator: object, task: object) -> dict[str, str]:
    """For the module of a task: its name of every merged parameter, and the layout's."""
    own = {id(value): key for key, value in evaluator.pool.model._parameters.items()}
    module = evaluator.module(task)
    return {full: own[id(p)] for full, p in module.named_parameters() if id(p) in own}


if __name__ == "__main__":
    main()
