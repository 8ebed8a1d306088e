"""Time and peak memory of merging checkpoints from disk to disk, beside mergekit's.

A base and two experts of Llama's architecture with random weights in bfloat16 are written, and
merged by each method that both know, in a process of its own on one thread, by the command line
from start to end; sums are in single precision in both, and both write bfloat16. Printed are the
seconds and the largest resident memory of the process, with the pages of mapped files in it.
mergekit 0.1.5 runs in an environment of its own, which is made if it is not there (see
parity_mergekit.py).

    python benchmarks/merge_cost.py --environment .venv-mergekit --megabytes 300
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from _common import print_json, print_table
from parity_mergekit import environment
from safetensors.torch import save_file

from moofusion.merging.mergekit import to_mergekit
from moofusion.merging.recipe import MergeRecipe

WIDTH, WORDS = 1024, 16_000
BOTH = {"x": 0.4, "y": 0.4}
# name, our method, our coefficients
CASES = [
    ("task arithmetic", {"method": "linear"}, {"x": 0.4, "y": 0.3}),
    ("average", {"method": "average"}, {"x": 1.0, "y": 2.0}),
    ("TIES", {"method": "ties", "scope": "tensor", "density": 0.3}, BOTH),
    ("DARE", {"method": "dare", "density": 0.3}, BOTH),
    ("Breadcrumbs", {"method": "breadcrumbs", "density": 0.4, "gamma": 0.05}, BOTH),
    ("Model Stock", {"method": "model-stock"}, {"x": 1.0, "y": 1.0}),
    ("SLERP", {"method": "slerp", "norms": "own"}, {"x": 0.5, "y": 0.5}),
]


def write_checkpoints(folder: Path, megabytes: int) -> float:
    """Write base and experts of about that size; returns their size in megabytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def config(layers: int) -> LlamaConfig:
        return LlamaConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=8,
            vocab_size=WORDS,
            architectures=["LlamaForCausalLM"],
            dtype="bfloat16",
        )

    per_layer = 16 * WIDTH * WIDTH * 2
    layers = max(1, round((megabytes * 10**6 - 4 * WORDS * WIDTH) / per_layer))
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in LlamaForCausalLM(config(layers)).state_dict().items()}
    base: dict[str, torch.Tensor] = {}
    for seed, name in enumerate(("base", "x", "y")):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for key, shape in shapes.items():
            tensor = torch.randn(shape, generator=generator).mul_(0.02)
            if name != "base":
                tensor.mul_(0.1).add_(base[key])
            tensors[key] = tensor.to(torch.bfloat16)
        if name == "base":
            base = tensors
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        config(layers).save_pretrained(folder / name)
    return (folder / "base" / "model.safetensors").stat().st_size / 1e6


# A process counts the memory of the one it was forked from, so a small one starts and measures it.
MEASURE = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
seconds = time.perf_counter() - started
if done.returncode:
    sys.exit(done.stderr[-2000:])
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a process on one thread."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start = [sys.executable, "-S", "-c", MEASURE, *command]
    done = subprocess.run(start, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    seconds, peak = json.loads(done.stdout)
    return seconds, peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    """Merge and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", type=Path, default=Path(".venv-mergekit"))
    parser.add_argument("--megabytes", type=int, default=300, help="size of each checkpoint")
    options = parser.parse_args()
    python = environment(options.environment).absolute()
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_checkpoints(folder, options.megabytes)
        for case, merge, coefficients in CASES:
            recipe = MergeRecipe(
                base=str(folder / "base"),
                experts={k: str(folder / k) for k in "xy"},
                merge=merge,
                coefficients=coefficients,
                dtype="bfloat16",
            )
            (folder / "recipe.toml").write_text(recipe.to_toml())
            (folder / "recipe.yaml").write_text(yaml.safe_dump(to_mergekit(recipe)))
            start = [sys.executable, "-m", "moofusion", "merge", str(folder / "recipe.toml")]
            own = run([*start, "--to", str(folder / "ours"), "--force"])
            start = [str(python), "-m", "mergekit.scripts.run_yaml", str(folder / "recipe.yaml")]
            other = run([*start, str(folder / "theirs")])
            found[case] = {"seconds": [own[0], other[0]], "megabytes": [own[1], other[1]]}
            rows.append((case, own, other))
    print(f"checkpoints of {size:.0f} MB")
    print_table(
        ["method", "seconds", "mergekit's", "peak MB", "mergekit's"],
        [(case, f"{a[0]:.1f}", f"{b[0]:.1f}", f"{a[1]:.0f}", f"{b[1]:.0f}") for case, a, b in rows],
    )
    print_json("merge_cost", checkpoint_megabytes=size, methods=found)


if __name__ == "__main__":
    main()
