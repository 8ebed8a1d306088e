"""Search and test hypervolume of several algorithms over several seeds, at equal evaluations.

Every algorithm gets the same seeds and the same number of evaluations; what a front is worth is
its normalized hypervolume (reference point 1.1), on the split it was searched on and re-measured
on the test split.

    python benchmarks/search_vs_random.py --evaluations 200 --seeds 5
"""

from __future__ import annotations

import argparse
import statistics

from _common import print_json, print_table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", default="vision4")
    parser.add_argument("--tasks", help="keep these tasks, separated by commas")
    parser.add_argument("--space", default="task-wise")
    parser.add_argument("--algorithms", default="nsga2 random", help="separated by spaces")
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 1 on")
    parser.add_argument("--threads", type=int, help="by default all that torch takes")
    options = parser.parse_args()

    import torch

    import moofusion

    if options.threads:
        torch.set_num_threads(options.threads)
    tasks = options.tasks.split(",") if options.tasks else None
    problem = moofusion.get_problem(options.problem, tasks=tasks, space=options.space)
    rows = []
    found: dict[str, dict[str, list[float]]] = {}
    for algorithm in options.algorithms.split():
        found[algorithm] = {"search": [], "test": [], "points": [], "seconds": []}
        for seed in range(1, options.seeds + 1):
            # The evaluations of another seed must not make this one faster.
            problem._cache.clear()
            result = moofusion.search(
                problem, algorithm, evaluations=options.evaluations, seed=seed
            )
            volumes = {split: result.hypervolume(split) for split in result.splits}
            for split, volume in volumes.items():
                found[algorithm][split].append(volume)
            found[algorithm]["points"].append(len(result.front))
            found[algorithm]["seconds"].append(result.seconds)
            rows.append(
                [algorithm, seed, len(result.evaluated), len(result.front)]
                + [f"{volume:.4f}" for volume in volumes.values()]
                + [f"{result.seconds:.1f}"]
            )
            print(".", end="", flush=True)
    print()
    splits = ["search", "test"] if problem.has_test_split else ["search"]
    print_table(["algorithm", "seed", "evaluations", "front", *splits, "seconds"], rows)
    print()
    means = []
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for algorithm, values in found.items():
        summary[algorithm] = {split: _summary(values[split]) for split in splits}
        cells = [
            f"{summary[algorithm][s]['mean']:.4f} +- {summary[algorithm][s]['std']:.4f}"
            for s in splits
        ]
        means.append([algorithm, *cells, f"{statistics.mean(values['points']):.1f}"])
    print_table([f"mean +- std over {options.seeds} seeds", *splits, "front"], means)
    print_json(
        "search_vs_random",
        problem=problem.title,
        fingerprint=problem.fingerprint(),
        space=options.space,
        evaluations=options.evaluations,
        seeds=options.seeds,
        reference=1.1,
        hypervolume=found,
        summary=summary,
    )


def _summary(values: list[float]) -> dict[str, float]:
    """Mean and sample standard deviation."""
    return {
        "mean": statistics.mean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
    }


if __name__ == "__main__":
    main()
