"""Study files with made-up measurements: the shape of real ones, no models, no clock, no chance."""

from __future__ import annotations

import numpy as np

from moofusion.comparison import Store
from moofusion.tasks.base import ACCURACY, LOSS

TASKS = ("animals", "objects", "fashion", "mnist", "photos", "letters", "signs", "faces")
ALGORITHMS = ("nsga2:pop_size=6", "random", "soup")
SEEDS = (11, 22, 33)
MACHINE = {
    "device": "cpu",
    "threads": 1,
    "python": "3.11.0",
    "versions": {"moofusion": "0.1.0", "numpy": "2.4.0"},
}
_SAMPLES = {"search": 400, "test": 600}


def metrics_of(L, split, *, variant=0, loss=()):
    """Metric rows of coefficients ``(P, K)``: gains on the own task, losses by interference."""
    L = np.atleast_2d(L)
    M = L.shape[1]
    columns = []
    for j in range(M):
        others = np.delete(L, j, axis=1)
        top = 0.55 + 0.05 * ((j + variant) % 4) - (0.02 * (j % 3) if split == "test" else 0.0)
        own = 1 - (1 - np.clip(L[:, j], 0, 1.2)) ** 2
        score = 0.12 + top * own - 0.22 * (others**2).sum(1) / max(M - 1, 1) ** 0.5
        score += 0.01 * np.sin(40 * L.sum(1) + j + (split == "test"))
        score = np.clip(score, 0.02, 0.98)
        counted = np.round(score * _SAMPLES[split]) / _SAMPLES[split]
        columns.append(-np.log(counted) if j in loss else counted)
    return np.column_stack(columns)


def describe(M, *, variant=0, held_out=True, loss=(), tasks=TASKS, spec=None):
    """The description of a problem as :class:`Study` writes it."""
    tasks = tasks[:M]
    metrics = [LOSS if j in loss else ACCURACY for j in range(M)]
    anchors, controls = {}, {}
    for split in ("search", "test") if held_out else ("search",):
        rows = metrics_of(np.vstack([np.zeros(M), np.eye(M)]), split, variant=variant, loss=loss)
        F = np.array([[m.objective(v) for m, v in zip(metrics, row, strict=True)] for row in rows])
        anchors[split] = {
            "ideal": F.min(0).tolist(),
            "nadir": F.max(0).tolist(),
            "models": dict(zip(("base", *tasks), rows.tolist(), strict=True)),
        }
        scales = {"average": 1 / M, "task arithmetic 0.3": 0.3}
        scales |= {"task arithmetic 0.4 (best scale)": 0.4, "TIES 0.3": 0.33}
        rows = metrics_of(
            np.outer(list(scales.values()), np.ones(M)), split, variant=variant, loss=loss
        )
        controls[split] = dict(zip(scales, rows.tolist(), strict=True))
    return {
        "tasks": list(tasks),
        "objectives": [m.name for m in metrics],
        "metrics": [[vars(m)] for m in metrics],
        "variables": list(tasks),
        "experts": list(tasks),
        "space": f"TaskWise({M})",
        "held_out_test": held_out,
        "spec": spec,
        "anchors": anchors,
        "controls": controls,
    }


def candidates(algorithm, seed, M, evaluations):
    """Decision vectors of one run, in order."""
    name = algorithm.partition(":")[0]
    number = ALGORITHMS.index(algorithm) if algorithm in ALGORITHMS else sum(map(ord, algorithm))
    rng = np.random.default_rng([number, seed, M])
    if name == "soup":
        rng = np.random.default_rng(5)  # the same for every seed
        return rng.dirichlet(np.ones(M), size=max(evaluations * 2 // 3, 2))
    X = rng.uniform(0, 1, (evaluations, M))
    if name.startswith("nsga"):
        pull = np.linspace(0, 1, evaluations)[:, None] ** 0.5
        spread = rng.dirichlet(np.ones(M), size=evaluations)
        best = spread / spread.max(axis=1, keepdims=True) * rng.uniform(0.4, 0.9, (evaluations, 1))
        X = (1 - pull) * X + pull * best
        X[-1] = X[0]  # met before: costs nothing
    return X


def add_problem(store, fingerprint, title, M, **options):
    store.add_problem(fingerprint, title, describe(M, **options))


def add_runs(
    store,
    fingerprint,
    M,
    *,
    algorithms=ALGORITHMS,
    seeds=SEEDS,
    evaluations=24,
    variant=0,
    held_out=True,
    loss=(),
    broken=True,
    front_size=50,
):
    """Finished runs; with `broken`, one evaluation of each failed and one was infeasible."""
    budget = f"evaluations={evaluations}"
    cost = float(M * _SAMPLES["search"])
    for algorithm in algorithms:
        for seed in seeds:
            store.add_cell(fingerprint, algorithm, seed, budget)
    for cell in store.cells():
        if cell.problem != fingerprint or cell.status == "done" or cell.budget != budget:
            continue
        store.start(cell.id, MACHINE, front_size=front_size)
        X = candidates(cell.algorithm, cell.seed, M, evaluations)
        rows = metrics_of(X, "search", variant=variant, loss=loss)
        seen = set()
        for i, (x, row) in enumerate(zip(X, rows, strict=True)):
            fresh = x.tobytes() not in seen
            seen.add(x.tobytes())
            store.add_evaluation(
                cell.id,
                fingerprint,
                i + 1,
                x,
                failed=broken and i == 3,
                feasible=not (broken and i == 5),
                metrics=[float("nan")] * M if broken and i == 3 else row,
                cost=cost if fresh else 0.0,
                paid=cost if fresh else 0.0,
                gradient=(0.0, 0.0),
                full_cost=cost,
                seconds=0.25 + 0.01 * (i % 7),
                elapsed=0.3 * (i + 1),
            )
        if held_out:
            for x, row in zip(X, metrics_of(X, "test", variant=variant, loss=loss), strict=True):
                store.add_measurement(
                    fingerprint, "test", x, failed=False, metrics=row, cost=cost, seconds=0.3
                )
        usable = np.setdiff1d(np.arange(len(X)), [3, 5])
        store.finish(cell.id, X[usable[-6:]], 0.5 + 0.01 * cell.seed)


def write_fake_study(path, *, problems=None, **runs):
    """A study file; `problems` maps a title to its number of objectives, or to options too."""
    with Store(path) as store:
        for number, (title, options) in enumerate((problems or {"pair": 2}).items()):
            options = {"M": options} if isinstance(options, int) else dict(options)
            M, fingerprint = options.pop("M"), f"{number + 1:032x}"
            add_problem(store, fingerprint, title, M, **options)
            measured = {k: v for k, v in options.items() if k not in ("tasks", "spec")}
            add_runs(store, fingerprint, M, **measured, **runs)
    return path
