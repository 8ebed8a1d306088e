"""One candidate evaluation against the bare forward passes over the same tensors.

An evaluation merges, runs every task's search split through the model and counts what was right;
the forward passes alone are what no implementation can save. Both are timed in turns on the same
resident tensors with the same model objects. The aim is a ratio of at most 1.05.

    python benchmarks/evaluation_overhead.py --rounds 40
"""

from __future__ import annotations

import argparse

import numpy as np
from _common import alternate, median_and_spread, print_json, print_table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", default="vision4")
    parser.add_argument("--tasks", help="keep these tasks, separated by commas")
    parser.add_argument("--space", default="task-wise")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, help="by default all that torch takes")
    options = parser.parse_args()

    import torch

    import moofusion

    if options.threads:
        torch.set_num_threads(options.threads)
    tasks = options.tasks.split(",") if options.tasks else None
    problem = moofusion.get_problem(options.problem, tasks=tasks, space=options.space)
    evaluator, split = problem.evaluator, problem.split
    rng = np.random.default_rng(0)

    def draw() -> np.ndarray:
        x = rng.uniform(problem.xl, problem.xu)
        return problem.space.coefficients(x[None])

    def forward() -> None:
        with torch.inference_mode():
            for task in evaluator.tasks:
                module = evaluator.module(task)
                for inputs, _ in task.batches(split):
                    task.logits(module, inputs)
        _wait(torch)

    def evaluate() -> None:
        evaluator.measure(draw(), split)
        _wait(torch)

    def merge() -> None:
        evaluator._merge(draw()[0], out=evaluator.pool.model.weights)
        _wait(torch)

    def through_pymoo() -> None:
        problem.evaluate(rng.uniform(problem.xl, problem.xu, (1, problem.n_var)))
        _wait(torch)

    calls = {
        "forward passes alone": forward,
        "evaluation": evaluate,
        "evaluation through pymoo": through_pymoo,
        "merge alone": merge,
    }
    times = alternate(calls, rounds=options.rounds)
    bare = times["forward passes alone"]
    rows = []
    ratios = {}
    for name, values in times.items():
        middle, low, high = median_and_spread(values)
        # Ratios within a round: what the machine does to one it does to the other.
        ratio = median_and_spread([a / b for a, b in zip(values, bare, strict=True)])[0]
        ratios[name] = ratio
        rows.append(
            [name, f"{1000 * middle:.2f}", f"{1000 * low:.2f} .. {1000 * high:.2f}", f"{ratio:.4f}"]
        )
    print_table([f"{options.problem}, ms", "median", "quartiles", "ratio"], rows)
    samples = sum(task.n_samples(split) for task in problem.tasks)
    print_json(
        "evaluation_overhead",
        problem=problem.title,
        space=options.space,
        samples=samples,
        rounds=options.rounds,
        seconds={name: median_and_spread(values)[0] for name, values in times.items()},
        ratio=ratios["evaluation"],
        ratio_through_pymoo=ratios["evaluation through pymoo"],
        aim=1.05,
    )


def _wait(torch: object) -> None:
    """Let a GPU finish what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
