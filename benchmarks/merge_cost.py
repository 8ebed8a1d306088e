"""Time and peak memory of merging checkpoints from disk to disk, beside mergekit's.

A base and two experts of Llama's architecture with random weights in bfloat16 are written, and
merged by each method that both know, in a process of its own on one thread, by the command line
from start to end; sums are in single precision in both, and both write bfloat16. Printed are the
processor's seconds, on which other processes have little influence, and the largest resident memory
of the process, with the pages of mapped files in it.
mergekit 0.1.5 runs in an environment of its own, which is made if it is not there (see
parity_mergekit.py); --alone leaves it out and adds the methods that it has not.

    python benchmarks/merge_cost.py --environment .venv-mergekit --megabytes 300
    python benchmarks/merge_cost.py --alone --megabytes 3000 --width 2048 --words 32000 --shards 4
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

from moofusion.merging.mergekit import to_mergekit
from moofusion.merging.recipe import MergeRecipe
from moofusion.weights.shards import Checkpoint, ShardWriter

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
# what mergekit has not, or has otherwise
OWN_CASES = [
    ("TIES, whole model", {"method": "ties", "density": 0.3}, BOTH),
    ("DARE, elect", {"method": "dare", "density": 0.3, "elect": True}, BOTH),
    ("Breadcrumbs, elect", {"method": "breadcrumbs", "density": 0.4, "elect": True}, BOTH),
    ("DELLA", {"method": "della", "density": 0.5}, BOTH),
    ("DELLA, no election", {"method": "della", "density": 0.5, "elect": False}, BOTH),
    ("low-rank", {"method": "low-rank"}, BOTH),
    ("TSV-M", {"method": "tsv"}, BOTH),
    ("Iso-C", {"method": "iso"}, BOTH),
]


def write_checkpoints(folder: Path, megabytes: int, width: int, words: int, shards: int) -> float:
    """Write base and experts of about that size; returns their size in megabytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def config(layers: int) -> LlamaConfig:
        return LlamaConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=8,
            vocab_size=words,
            architectures=["LlamaForCausalLM"],
            dtype="bfloat16",
        )

    per_layer = 16 * width * width * 2
    layers = max(1, round((megabytes * 10**6 - 4 * words * width) / per_layer))
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in LlamaForCausalLM(config(layers)).state_dict().items()}
    size = sum(2 * shape.numel() for shape in shapes.values())
    announced = {key: ("BF16", tuple(shape)) for key, shape in shapes.items()}
    for seed, name in enumerate(("base", "x", "y")):
        generator = torch.Generator().manual_seed(seed)
        (folder / name).mkdir()
        config(layers).save_pretrained(folder / name)
        base = None if name == "base" else Checkpoint(folder / "base", role="base")
        with ShardWriter(folder / name, announced, shard_bytes=-(-size // shards)) as writer:
            for key, shape in shapes.items():
                tensor = torch.randn(shape, generator=generator).mul_(0.02)
                if base is not None:
                    tensor.mul_(0.1).add_(base.read(key))
                writer.write(key, tensor)
    return size / 1e6


# A process counts the memory of the one it was forked from, so a small one starts and measures it.
MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
if done.returncode:
    sys.exit(done.stderr[-2000:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def run(command: list[str]) -> tuple[float, float]:
    """Processor's seconds and peak resident megabytes of a process on one thread."""
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
    parser.add_argument("--width", type=int, default=1024, help="of the hidden layers")
    parser.add_argument("--words", type=int, default=16_000, help="size of the vocabulary")
    parser.add_argument("--shards", type=int, default=1, help="files of each checkpoint")
    parser.add_argument("--alone", action="store_true", help="without mergekit")
    parser.add_argument("--only", nargs="*", help="names of methods")
    options = parser.parse_args()
    python = None if options.alone else environment(options.environment).absolute()
    cases = [*CASES, *OWN_CASES] if options.alone else CASES
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = options.width, options.words, options.shards
        size = write_checkpoints(folder, options.megabytes, *shape)
        for case, merge, coefficients in cases:
            if options.only and case not in options.only:
                continue
            recipe = MergeRecipe(
                base=str(folder / "base"),
                experts={k: str(folder / k) for k in "xy"},
                merge=merge,
                coefficients=coefficients,
                dtype="bfloat16",
            )
            (folder / "recipe.toml").write_text(recipe.to_toml())
            start = [sys.executable, "-m", "moofusion", "merge", str(folder / "recipe.toml")]
            row = [run([*start, "--to", str(folder / "ours"), "--force"])]
            if python is not None:
                (folder / "recipe.yaml").write_text(yaml.safe_dump(to_mergekit(recipe)))
                start = [python, "-m", "mergekit.scripts.run_yaml", folder / "recipe.yaml"]
                row.append(run([*map(str, start), str(folder / "theirs")]))
            found[case] = {"seconds": [s for s, _ in row], "megabytes": [m for _, m in row]}
            cells = [f"{s:.1f}" for s, _ in row] + [f"{m:.0f}" for _, m in row]
            print(f"{case}: {', '.join(cells)}", file=sys.stderr)
            rows.append((case, *cells))
    print(f"checkpoints of {size:.0f} MB")
    theirs = [] if python is None else ["mergekit's"]
    print_table(["method", "seconds", *theirs, "peak MB", *theirs], rows)
    print_json("merge_cost", checkpoint_megabytes=size, methods=found)


if __name__ == "__main__":
    main()
