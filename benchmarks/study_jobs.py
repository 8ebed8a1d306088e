"""How much faster a study is with two jobs than with one, in one run on one machine.

python benchmarks/study_jobs.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from _common import print_json, print_table, seconds


def main() -> None:
    """Time the same study with one job and with two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", default="vision4")
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()

    import moofusion

    settings = {
        "1 job, 1 thread": (1, 1),
        "1 job, 2 threads": (1, 2),
        "2 jobs, 1 thread each": (2, 1),
    }
    times: dict[str, list[float]] = {name: [] for name in settings}
    for number in range(options.rounds):
        for name in list(settings)[:: -1 if number % 2 else 1]:
            jobs, threads = settings[name]
            # A problem of its own for each, whose cache knows nothing of the others.
            problem = moofusion.get_problem(options.problem)
            with tempfile.TemporaryDirectory() as folder:
                study = moofusion.Study(
                    problem,
                    ["random"],
                    seeds=options.seeds,
                    evaluations=options.evaluations,
                    store=Path(folder) / "study.db",
                    front_size=5,
                    controls=False,
                )

                def run(study: moofusion.Study = study, jobs: int = jobs, n: int = threads) -> None:
                    study.run(n_jobs=jobs, threads=n)

                times[name].append(seconds(run))
    best = {name: min(values) for name, values in times.items()}
    slowest = best["1 job, 1 thread"]
    rows = [[name, f"{value:.1f}", f"{slowest / value:.2f}"] for name, value in best.items()]
    print_table(["setting", "seconds (best)", "speed-up"], rows)
    print_json("study_jobs", times=times, **vars(options))


if __name__ == "__main__":
    main()
