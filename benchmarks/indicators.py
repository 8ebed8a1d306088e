"""Indicators over a log of 100,000 evaluations: CPU seconds for each number of objectives.

Random merges improve over a run as a search would: points near a curved front, with distance that
shrinks. Computes, as a report does, the pooled front, all set indicators of every run, and the
anytime hypervolume of every run. Aim: under 5 seconds.

    python benchmarks/indicators.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from _common import print_json, print_table

from moofusion.comparison.anytime import anytime_hypervolume
from moofusion.comparison.indicators import pooled_front, set_indicators
from moofusion.comparison.quality import nondominated


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--objectives", type=int, nargs="+", default=[2, 3, 4])
    options = parser.parse_args()
    rows = []
    for n_obj in options.objectives:
        runs = _runs(options.runs, options.evaluations // options.runs, n_obj)
        started = time.process_time()
        fronts = [run[nondominated(run)] for run in runs]
        pooled = pooled_front(fronts)
        pooled_at = time.process_time()
        set_indicators(fronts, pooled=pooled)
        indicators_at = time.process_time()
        anytime_hypervolume(runs)
        ended = time.process_time()
        times = [pooled_at - started, indicators_at - pooled_at, ended - indicators_at]
        sizes = np.median([len(front) for front in fronts])
        rows.append(
            [n_obj, f"{sizes:.0f}", len(pooled), *(f"{t:.2f}" for t in [*times, sum(times)])]
        )
    heads = ["objectives", "median front", "pooled", "fronts s", "indicators s", "anytime s", "all"]
    print_table(heads, rows)
    print_json("indicators", total={row[0]: float(row[-1]) for row in rows}, **vars(options))


def _runs(count: int, length: int, n_obj: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(count):
        direction = np.abs(rng.normal(size=(length, n_obj)))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        behind = rng.exponential(np.linspace(0.5, 0.05, length))
        # Accuracies of 1,000 samples.
        runs.append(np.round((1 - direction) / 1.2 + behind[:, None] * direction, 3))
    return runs


if __name__ == "__main__":
    main()
