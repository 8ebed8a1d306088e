"""A study killed again and again must end in the table of an undisturbed one.

Runs ``moofusion compare`` once to its end, then the same command with SIGKILL sent to all its
processes at random times, until it has been killed often enough and is left to finish. Compares
the logs (every candidate, every value, in order) and the tables.

    python benchmarks/killed_study.py --kills 20
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import print_json, print_table


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", default="vision4")
    parser.add_argument("--algorithms", default="nsga2,random,soup")
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the times of the kills")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder, "whole.db"), Path(folder, "broken.db")
        started = time.perf_counter()
        if _start(options, whole).wait() != 0:
            sys.exit("the undisturbed study failed")
        undisturbed = time.perf_counter() - started
        rows = []
        while len(rows) < options.kills:
            process = _start(options, broken)
            wait = dice.uniform(0.1, 1.0) * max(undisturbed / 8, 8.0)
            try:
                process.wait(timeout=wait)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                rows.append([len(rows) + 1, f"{wait:.1f}", _evaluations(broken)])
                continue
            break
        if _start(options, broken).wait() != 0:
            sys.exit("the study did not finish after the kills")
        print_table(["kill", "after seconds", "evaluations so far"], rows)
        same = _log(whole) == _log(broken)
        print(f"{len(rows)} kills; logs and tables {'identical' if same else 'DIFFER'}")
        print(_table(broken))
    print_json("killed_study", killed=len(rows), identical=same, **vars(options))
    sys.exit(0 if same and len(rows) == options.kills else 1)


def _start(options: argparse.Namespace, store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "moofusion", "compare", options.problem]
    command += ["--algorithms", options.algorithms, "--seeds", str(options.seeds)]
    command += ["--evaluations", str(options.evaluations), "--store", str(store)]
    command += ["--jobs", str(options.jobs), "--threads", "1"]
    quiet = subprocess.DEVNULL
    # A session of its own, so that one signal reaches the workers too.
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)


def _evaluations(store: Path) -> int:
    from moofusion.comparison import Store
    from moofusion.errors import RunError

    if not store.exists():
        return 0
    try:
        with Store(store, create=False) as opened:
            return sum(cell.evaluations for cell in opened.cells())
    except RunError:  # killed while it was made
        return 0


def _log(store: Path) -> object:
    from moofusion.comparison import StudyData

    runs = [
        (
            run.cell.algorithm,
            run.cell.seed,
            run.X.tobytes(),
            run.values.tobytes(),
            run.cost.tobytes(),
            sorted((i, row.tobytes()) for i, row in run.test.items()),
        )
        for run in StudyData.read(store).runs
    ]
    return runs, _table(store)


def _table(store: Path) -> str:
    from moofusion.comparison import StudyData

    return StudyData.read(store).table().to_string(index=False)


if __name__ == "__main__":
    main()
