"""Every merge method that mergekit has too, tensor by tensor on the experts of vision4.

mergekit 0.1.5 runs in an environment of its own, on the same tensors in float32. Printed are, for
each method, the largest difference of a tensor relative to the largest change that the merge makes
to it (|ours - theirs| / |theirs - base|, both in the maximum norm), the tensor it occurs in, the
share of all entries that differ by more than a thousandth of that change, and the seconds both took
for all tensors on one thread, the best of three.

The experts are stored in half precision, so that many differences are equal in magnitude and some
cancel exactly: which of them a trimming keeps, and which sign a sum of 0 has, is then a matter of
convention. Noise of a millionth is added to the experts, so that methods are compared and not these
conventions; --plain leaves it out.

    python benchmarks/parity_mergekit.py --environment .venv-mergekit

The environment is made if it is not there. Random masks differ, so DARE is compared at density 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _common import print_json, print_table
from safetensors.torch import load_file, save_file

import moofusion
from moofusion.merging import make_method
from moofusion.weights import ParameterLayout, TaskVectors

# name, our method, our coefficients (one for all), mergekit's method and parameters, with base
CASES = [
    ("task arithmetic", {"method": "linear"}, 0.3, "task_arithmetic", {"weight": 0.3}, True),
    ("average", {"method": "average"}, 1.0, "linear", {"weight": 1.0}, False),
    *[
        (f"TIES {d}", {"method": "ties", "scope": "tensor", "density": d}, 0.7, "ties",
         {"weight": 1.0, "density": d, "lambda": 0.7}, True)
        for d in (0.2, 0.5, 1.0)
    ],
    ("DARE 1.0", {"method": "dare", "density": 1.0}, 0.3, "dare_linear",
     {"weight": 0.3, "density": 1.0}, True),
    ("DARE-TIES 1.0", {"method": "dare", "density": 1.0, "elect": True}, 0.7, "dare_ties",
     {"weight": 1.0, "density": 1.0, "normalize": True, "lambda": 0.7}, True),
    ("Breadcrumbs", {"method": "breadcrumbs", "density": 0.4, "gamma": 0.05}, 0.3, "breadcrumbs",
     {"weight": 0.3, "density": 0.4, "gamma": 0.05}, True),
    ("Breadcrumbs-TIES", {"method": "breadcrumbs", "density": 0.4, "gamma": 0.05, "elect": True},
     0.7, "breadcrumbs_ties",
     {"weight": 1.0, "density": 0.4, "gamma": 0.05, "normalize": True, "lambda": 0.7}, True),
    ("Model Stock", {"method": "model-stock"}, 1.0, "model_stock", {}, True),
    ("Karcher", {"method": "slerp"}, 1.0, "karcher", {}, False),
    ("SLERP of two", {"method": "slerp", "norms": "own"}, 1.0, "slerp", {"t": 0.5}, None),
]  # fmt: skip

THEIRS = """
import json, sys, time, torch
from safetensors.torch import load_file, save_file
from mergekit.merge_methods.api import merge_tensors
torch.set_num_threads(1)
folder = sys.argv[1]
given = load_file(f"{folder}/given.safetensors")
names = json.load(open(f"{folder}/names.json"))
seconds = {}
for name, method, parameters, base in json.load(open(f"{folder}/cases.json")):
    best = float("inf")
    for _ in range(3):
        started, out = time.perf_counter(), {}
        for i, tensor in enumerate(names):
            rows = given[str(i)]
            chosen = rows[:3][1:] if base is None else rows if base else rows[1:]
            out[str(i)] = merge_tensors(list(chosen), method, parameters=parameters,
                                        base_index=0 if base is not False else None)
        best = min(best, time.perf_counter() - started)
    seconds[name] = best
    save_file({k: v.contiguous() for k, v in out.items()}, f"{folder}/{name}.safetensors")
json.dump(seconds, open(f"{folder}/seconds.json", "w"))
"""


def environment(folder: Path) -> Path:
    """Python of an environment that holds mergekit."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pin = f"torch=={torch.__version__.partition('+')[0]}"
        subprocess.run([python, "-m", "pip", "install", "-q", "mergekit==0.1.5", pin], check=True)
    return python


def ours(vectors: TaskVectors, layout: ParameterLayout, table: dict, scale: float):
    """The merge, and the best of three times of rewriting and merging."""
    best, L = float("inf"), np.full((1, vectors.n_experts), scale)
    for _ in range(3):
        started = time.perf_counter()
        partition = layout.partition("model")
        merge = make_method(table).bind(vectors, partition, static=np.zeros(vectors.n_experts))
        out = merge(L, out=torch.empty(layout.size))
        best = min(best, time.perf_counter() - started)
    return out, best


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", type=Path, default=Path(".venv-mergekit"))
    parser.add_argument("--plain", action="store_true", help="without noise")
    options = parser.parse_args()
    python = environment(options.environment)
    torch.set_num_threads(1)
    pool = moofusion.get_problem("vision4", device="cpu").evaluator.pool
    vectors, layout = pool.vectors, pool.layout
    flats = torch.stack([vectors.base, *(vectors.expert(k) for k in range(vectors.n_experts))])
    if not options.plain:
        noise = torch.randn(flats[1:].shape, generator=torch.Generator().manual_seed(0))
        used = torch.zeros(layout.size)
        for entry in layout.entries:
            used[entry.slice] = 1
        flats[1:] += 1e-6 * noise * used
        vectors = TaskVectors.build(layout, vectors.names, vectors.base, list(flats[1:]))
    pair = TaskVectors.build(layout, vectors.names[:2], vectors.base, list(flats[1:3]))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tensors = {
            str(i): flats[:, e.slice].reshape(-1, *e.shape).contiguous()
            for i, e in enumerate(layout.entries)
        }
        save_file(tensors, folder / "given.safetensors")
        (folder / "names.json").write_text(json.dumps([e.name for e in layout.entries]))
        cases = [(case, method, given, base) for case, _, _, method, given, base in CASES]
        (folder / "cases.json").write_text(json.dumps(cases))
        subprocess.run([python, "-c", THEIRS, name], check=True)
        seconds = json.loads((folder / "seconds.json").read_text())
        for case, table, scale, _, _, base in CASES:
            merged, own = ours(pair if base is None else vectors, layout, table, scale)
            theirs = load_file(folder / f"{case}.safetensors")
            worst, where, differing = 0.0, "", 0
            for i, entry in enumerate(layout.entries):
                other = theirs[str(i)].flatten()
                change = (other - vectors.base[entry.slice]).abs().max().clamp(min=1e-12)
                apart = (merged[entry.slice] - other).abs() / change
                relative = float(apart.max())
                differing += int((apart > 1e-3).sum())
                if relative >= worst:
                    worst, where = relative, entry.name
            share = differing / layout.n_parameters
            rows.append((case, worst, where, share, own, seconds[case]))
    print_table(
        ["method", "largest difference", "in", "share > 1e-3", "seconds", "mergekit's"],
        [
            (case, f"{d:.1e}", where, f"{share:.1e}", f"{a:.3f}", f"{b:.3f}")
            for case, d, where, share, a, b in rows
        ],
    )
    print_json("parity_mergekit", differences={case: d for case, d, *_ in rows})


if __name__ == "__main__":
    main()
