"""How long `import moofusion` takes in a fresh interpreter. The aim is under a second.

python benchmarks/import_time.py --rounds 15
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from _common import alternate, median_and_spread, print_json, print_table

STATEMENTS = {
    "interpreter alone": "pass",
    "import moofusion": "import moofusion",
    "import moofusion.cli": "import moofusion.cli",
    "moofusion.search (torch, pymoo)": "import moofusion; moofusion.search",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()

    def start(statement: str) -> None:
        subprocess.run([sys.executable, "-c", statement], check=True)

    calls = {name: (lambda text=text: start(text)) for name, text in STATEMENTS.items()}
    times = alternate(calls, rounds=options.rounds)
    rows = []
    for name, values in times.items():
        middle, low, high = median_and_spread(values)
        rows.append([name, f"{middle:.3f}", f"{low:.3f} .. {high:.3f}"])
    print_table(["fresh interpreter", "median s", "quartiles"], rows)
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, moofusion; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    heavy = [name for name in ("torch", "transformers", "pymoo", "matplotlib") if name in loaded]
    middle = {name: median_and_spread(values)[0] for name, values in times.items()}
    print_json(
        "import_time",
        rounds=options.rounds,
        seconds=middle,
        own_seconds=middle["import moofusion"] - middle["interpreter alone"],
        heavy_modules=heavy,
        aim=1.0,
    )


if __name__ == "__main__":
    main()
