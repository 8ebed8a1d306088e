"""Gradient methods against search at equal cost: test hypervolume over subsets of tasks and seeds.

Every pair, every triple and all of the tasks of a problem are searched by PWEMoE (linear and EPO),
by scalarization on module-wise coefficients, by NSGA-II on task-wise and on module-wise
coefficients, and by MAP, beside the whole network fine-tuned for a few preferences and the controls
(soups, one constant L, random search). All get the same budget of cost units on a subset: that of
``--evaluations`` evaluations there (a forward sample is 1, with its backward pass 3). Hypervolumes
are normalized by base and experts, which are the same in every space.

Everything is in one folder; the same command does what is missing and prints the table again.

    python benchmarks/gradient_methods.py --out runs/gradient-methods --seeds 5 --threads 1
    python benchmarks/gradient_methods.py --out runs/trial --only mnist,fashion --seeds 1 \
        --evaluations 20 --threads 1
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import print_json, print_table

# Where gradient methods may go; searches get the usual bounds, which are theirs to fill.
WIDE = {"kind": "module-wise", "lower": -3.0, "upper": 5.0}
SPACES: dict[str, Any] = {"wide": WIDE, "module-wise": "module-wise", "task-wise": "task-wise"}
METHODS = {
    "PWEMoE, LS": ("wide", "pwemoe:routed=all"),
    "PWEMoE, EPO": ("wide", "pwemoe:routed=all,scalarization=epo"),
    "scalarization, LS": ("wide", "scalarization"),
    "NSGA-II, module-wise": ("module-wise", "nsga2"),
    "NSGA-II, task-wise": ("task-wise", "nsga2"),
    "MAP": ("task-wise", "map"),
    "whole network, LS": ("task-wise", "checkpoints:folder={folder}"),
    "one constant L": ("wide", "constant:routed=all"),
    "scaled soup": ("task-wise", "scaled_soup"),
    "rewarded soup": ("task-wise", "soup"),
    "random, task-wise": ("task-wise", "random"),
}
BATCH = 16
# Preferences that the whole network is trained for, by number of tasks.
RAYS = {2: 5, 3: 6}
# Points of PWEMoE's grid, fewer than it would take, which leaves more for training.
POINTS = {3: ",n_points=15", 4: ",n_points=20"}


def main() -> None:
    """Run what is missing; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", default="vision4")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study and models")
    parser.add_argument(
        "--only", action="append", help="one subset, mnist,fashion; may be repeated"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=200, help="worth of the budget")
    parser.add_argument("--lr", type=float, default=1e-4, help="of the whole network")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    seeds = list(range(1, options.seeds + 1))
    rows: list[dict[str, Any]] = []
    for tasks in _subsets(options):
        started = time.perf_counter()
        rows += _run(options, tasks, seeds)
        print(f"{', '.join(tasks)}: {time.perf_counter() - started:.0f} s", flush=True)
    _print(rows, options)


def _subsets(options: argparse.Namespace) -> list[tuple[str, ...]]:
    from moofusion.problems import get_problem

    if options.only:
        return [tuple(text.split(",")) for text in options.only]
    names = get_problem(options.problem).task_names
    sizes = range(2, len(names) + 1)
    return [tasks for size in sizes for tasks in itertools.combinations(names, size)]


def _run(options: argparse.Namespace, tasks: tuple[str, ...], seeds: list[int]) -> list[dict]:
    """One subset of tasks: trains, searches, and gives a row for every method and seed."""
    import moofusion
    from moofusion.comparison import Study

    label = "+".join(tasks)
    folder = options.out / "whole-network" / f"{label}-{{seed}}"
    problems = {}
    for name, space in SPACES.items():
        problems[name] = moofusion.get_problem(options.problem, tasks=list(tasks), space=space)
        problems[name].title = f"{label}, {name}"
    one = sum(task.n_samples("search") for task in problems["wide"].tasks)
    budget = options.evaluations * one
    for seed in seeds:
        _train(problems["task-wise"], Path(str(folder).format(seed=seed)), budget, seed, options)
    rows = []
    for name, problem in problems.items():
        mine = {k: text for k, (space, text) in METHODS.items() if space == name}
        texts = {
            k: text.replace("{folder}", str(folder))
            + (POINTS.get(len(tasks), "") if text.startswith("pwemoe") else "")
            for k, text in mine.items()
        }
        study = Study(
            problem,
            list(texts.values()),
            seeds=seeds,
            cost=budget,
            store=options.out / "study.db",
            controls=False,
        )
        study.run(n_jobs=options.jobs, threads=options.threads)
        ran = {cell.id for cell in study.cells()}
        for run in study.results().runs:
            if run.cell.id in ran:
                method = next(k for k, text in texts.items() if text == run.cell.algorithm)
                rows.append(
                    {
                        "tasks": label,
                        "size": len(tasks),
                        "method": method,
                        "seed": run.cell.seed,
                        "test": run.hypervolume("test"),
                        "search": run.hypervolume("search"),
                        "points": len(run.front),
                        "spent": float(run.cost.sum()) / budget,
                        "seconds": float(run.elapsed[-1]),
                    }
                )
    return rows


def _train(problem: Any, folder: Path, budget: float, seed: int, options: Any) -> None:
    """The whole network for a few preferences, at the cost of one run of a search."""
    from moofusion.algorithms.gradients import step_cost
    from moofusion.baselines import train_rays

    rays = RAYS.get(problem.n_obj, problem.n_obj + 1)
    one = sum(task.n_samples("search") for task in problem.tasks)
    steps = int((budget - rays * one) // (rays * step_cost(problem, BATCH)))
    if steps < 1:
        raise SystemExit(f"--evaluations {options.evaluations} pays for no step of {rays} rays")
    train_rays(problem, folder, rays=rays, steps=steps, lr=options.lr, batch_size=BATCH, seed=seed)


def _print(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Means over subsets of one size; the deviation is that of the mean between seeds."""
    sizes = sorted({row["size"] for row in rows})
    heads = [f"{len({r['tasks'] for r in rows if r['size'] == s})} x {s} tasks" for s in sizes]
    table, summary = [], {}
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        cells, summary[method] = [], {}
        for size in sizes:
            picked = [row for row in mine if row["size"] == size]
            by_seed = [
                np.mean([row["test"] for row in picked if row["seed"] == seed])
                for seed in sorted({row["seed"] for row in picked})
            ]
            mean, spread = float(np.mean(by_seed)), None
            if len(by_seed) > 1:
                spread = float(np.std(by_seed, ddof=1))
            cells.append(f"{mean:.4f}" + ("" if spread is None else f" ± {spread:.4f}"))
            summary[method][size] = [mean, spread]
        cells.append(f"{np.mean([row['points'] for row in mine]):.0f}")
        cells.append(f"{np.mean([row['spent'] for row in mine]):.2f}")
        cells.append(f"{np.mean([row['seconds'] for row in mine]):.1f}")
        table.append([method, *cells])
    title = f"{options.problem}, test hypervolume"
    print_table([title, *heads, "points", "budget spent", "seconds"], table)
    print(
        f"normalized by base and experts, reference point 1.1; budget: the cost of "
        f"{options.evaluations} evaluations; {options.seeds} seeds"
    )
    print_json(
        "gradient_methods",
        problem=options.problem,
        evaluations=options.evaluations,
        seeds=options.seeds,
        hypervolume=summary,
        rows=rows,
    )


if __name__ == "__main__":
    main()
