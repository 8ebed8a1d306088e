"""MAP and its variants on the pairs, triples and all four tasks of vision4, at equal cost.

Accuracies: as many evaluations for each algorithm (20, 32 and 50 for two, three and four tasks),
with random search in the same region and rewarded soup as controls; gradient-enhanced MAP at the
same cost. One more variant verifies at once, after a design as large as that of the reference: what
rounds and the size of the design do to the gap. Losses: gradient-enhanced MAP at half the cost of
plain MAP. Fronts are thinned to 12 models and measured on test. The gap is the
mean absolute difference of predicted and real objectives over the verified points; runs are
replayed from the store for it, so that only gradients are paid again.

Everything is kept in the store: the same command goes on where it stopped.

    python benchmarks/map_study.py --jobs 2 --store map_study.db
"""

from __future__ import annotations

import argparse
import warnings
from itertools import combinations

import numpy as np
from _common import print_json, print_table
from pymoo.optimize import minimize

from moofusion import get_problem
from moofusion.algorithms import get_algorithm
from moofusion.comparison import Store, Study, StudyData
from moofusion.comparison.cell import fill_cache
from moofusion.surrogates import n_parameters

TASKS = ("mnist", "fashion", "animals", "objects")
BUDGETS = {2: 20, 3: 32, 4: 50}
ACCURACY = (
    "map_reference", "map", "map:rounds=1,n_samples={}", "map_bayes", "map:surrogate=gp",
    "nsga2:pop_size=10", "random", "soup",
)  # fmt: skip
FRONT = 12


def main() -> None:
    """Run what is missing, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="map_study.db")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tasks", type=int, nargs="+", default=[4, 2, 3])
    parser.add_argument("--objectives", nargs="+", default=["accuracy", "loss"])
    options = parser.parse_args()
    for objective in options.objectives:
        for count in options.tasks:
            for tasks in combinations(TASKS, count):
                _run(tasks, objective, options)
    warnings.simplefilter("ignore")
    for objective in options.objectives:
        print(f"\n{objective}")
        _print(objective, options)
    print_json("map_study", **vars(options))


def _problem(tasks, objective):
    return get_problem("vision4", tasks=list(tasks), objective=objective)


def _run(tasks, objective, options):
    problem = _problem(tasks, objective)
    problem.title = _title(tasks, objective)
    budget = BUDGETS[len(tasks)]
    shared = {
        "seeds": options.seeds, "store": options.store, "front_size": FRONT, "controls": False
    }  # fmt: skip
    names = ACCURACY if objective == "accuracy" else ("map", "random")
    names = [name.format(2 * n_parameters(problem.n_var)) for name in names]
    part = 1.0 if objective == "accuracy" else 0.5
    cost = part * budget * _single_cost(problem)
    studies = [
        Study(problem, names, evaluations=budget, **shared),
        Study(problem, ["map_gradient"], cost=cost, **shared),
    ]
    for study in studies:
        print(study, flush=True)
        study.run(n_jobs=options.jobs, threads=1)


def _title(tasks, objective):
    return "+".join(tasks) + ("" if objective == "accuracy" else " loss")


def _single_cost(problem):
    return sum(task.n_samples("search") for task in problem.tasks)


def _print(objective, options):
    data = StudyData.read(options.store)
    rows = []
    for problem in data.problems.values():
        tasks = problem.title.removesuffix(" loss").split("+")
        if problem.title != _title(tasks, objective) or len(tasks) not in options.tasks:
            continue
        for name in data.algorithms(problem):
            runs = data.of(problem, name)
            search, test = ([r.hypervolume(s) for r in runs] for s in ("search", "test"))
            gap = [_gap(run, tasks, objective, options.store) for run in runs if "map" in name]
            cost = np.mean([run.cost.sum() for run in runs]) / len(tasks)
            rows.append(
                [
                    problem.title, name, len(runs), f"{cost:,.0f}",
                    f"{np.mean(search):.4f}", f"{np.std(search, ddof=1):.4f}",
                    f"{np.mean(test):.4f}", f"{np.std(test, ddof=1):.4f}",
                    f"{np.mean(gap):.4f}" if gap else "-",
                ]
            )  # fmt: skip
    heads = ["problem", "algorithm", "seeds", "cost / task", "HV search", "sd", "HV test", "sd"]
    print_table([*heads, "gap"], rows)


def _gap(run, tasks, objective, store):
    """Replays a run, which its evaluations in the store make free."""
    problem = _problem(tasks, objective)
    with Store(store, create=False) as opened:
        fill_cache(opened, run.problem.fingerprint, problem)
    algorithm = get_algorithm(run.cell.algorithm, problem)
    limit = ("n_eval", len(run.X))
    result = minimize(problem, algorithm, limit, seed=run.cell.seed, copy_algorithm=False)
    gap = result.algorithm.gap()
    return float(gap["mean absolute"].mean())


if __name__ == "__main__":
    main()
