"""The merge kernel against the memory limit of the machine it runs on.

A merge of K experts into D parameters reads the base and K task vectors and writes the result:
(K + 2) * D numbers have to move, whatever the code does. The limit is the best bandwidth that
simple kernels reach on the same memory in the same run: a sum (reads only), a copy and a triad.
Merges and limit kernels are timed in turns. Printed are the ratios of medians to the best of the
three and to the copy (the aim is at most 1.2), and of the best times of all rounds, which a busy
machine disturbs least.

    python benchmarks/merge_bandwidth.py --threads 1,2 --rounds 15

The default model is laid out like a small Llama with 113 million parameters; eight task vectors
in float32 need 4.5 GB of memory.
"""

from __future__ import annotations

import argparse

import numpy as np
from _common import alternate, median_and_spread, print_json, print_table


def llama_shapes(width: int, layers: int, inner: int, vocabulary: int) -> dict[str, tuple]:
    """Names and shapes of a Llama with tied embeddings."""
    shapes = {"model.embed_tokens.weight": (vocabulary, width)}
    for i in range(layers):
        block = f"model.layers.{i}"
        for name in ("q", "k", "v", "o"):
            shapes[f"{block}.self_attn.{name}_proj.weight"] = (width, width)
        shapes[f"{block}.mlp.gate_proj.weight"] = (inner, width)
        shapes[f"{block}.mlp.up_proj.weight"] = (inner, width)
        shapes[f"{block}.mlp.down_proj.weight"] = (width, inner)
        shapes[f"{block}.input_layernorm.weight"] = (width,)
        shapes[f"{block}.post_attention_layernorm.weight"] = (width,)
    return shapes | {"model.norm.weight": (width,)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--inner", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=36864)
    parser.add_argument("--threads", help="numbers of threads, 1,2; by default one and all")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()

    import torch

    from moofusion.merging import LinearMerge
    from moofusion.weights import ParameterLayout, TaskVectors

    everything = torch.get_num_threads()
    counts = [int(n) for n in (options.threads or f"1,{everything}").split(",")]
    layout = ParameterLayout(
        llama_shapes(options.width, options.layers, options.inner, options.vocabulary)
    )
    K, D = options.experts, layout.size
    generator = torch.Generator().manual_seed(0)
    base = torch.empty(D).normal_(generator=generator)
    deltas = torch.empty(K, D)
    for row in deltas:
        row.normal_(std=0.01, generator=generator)
    out = torch.zeros(D)
    nothing = (torch.zeros(0, dtype=torch.int32), torch.zeros(0))
    vectors = TaskVectors(layout, tuple(map(str, range(K))), base, deltas, (nothing,) * K)
    rng = np.random.default_rng(0)
    print(f"{layout}, {K} experts, {(K + 2) * D * 4 / 1e9:.2f} GB per merge")
    for threads in dict.fromkeys(counts):
        torch.set_num_threads(threads)
        _measure(torch, LinearMerge, vectors, out, rng, threads, options.rounds)


def _measure(torch, LinearMerge, vectors, out, rng, threads, rounds) -> None:
    """One number of threads: table and JSON line."""
    layout, base, deltas = vectors.layout, vectors.base, vectors.deltas
    K, D = deltas.shape
    moved = {}
    calls = {}
    for granularity in ("model", "tensor"):
        partition = layout.partition(granularity)
        merge = LinearMerge(vectors, partition, static=np.zeros(K))
        L = rng.uniform(0, 0.5, (partition.n_groups, K))
        name = f"merge, {partition.n_groups} group{'s' if partition.n_groups > 1 else ''}"
        calls[name] = lambda merge=merge, L=L: merge(L, out=out)
        moved[name] = (K + 2) * D * 4
    merges = list(calls)
    half = K // 2
    calls["sum"] = lambda: torch.sum(deltas)
    moved["sum"] = K * D * 4
    # What is overwritten are task vectors: their values do not matter to the time of a merge.
    calls["copy"] = lambda: deltas[half : 2 * half].copy_(deltas[:half])
    moved["copy"] = 2 * half * D * 4
    calls["triad"] = lambda: torch.add(base, deltas[0], alpha=0.5, out=out)
    moved["triad"] = 3 * D * 4
    times = alternate(calls, rounds=rounds)
    speed = {name: moved[name] / median_and_spread(times[name])[0] / 1e9 for name in calls}
    fastest = {name: moved[name] / min(times[name]) / 1e9 for name in calls}
    limits = [name for name in calls if name not in merges]
    limit = max(limits, key=speed.__getitem__)
    best = max(fastest[name] for name in limits)

    def against(name: str) -> list[float]:
        """How many times slower than the best kernel, the copy, and the best moment of any."""
        return [speed[limit] / speed[name], speed["copy"] / speed[name], best / fastest[name]]

    rows = []
    for name in calls:
        middle, low, high = median_and_spread(times[name])
        ratios = [f"{r:.3f}" for r in against(name)] if name in merges else [""] * 3
        spread = f"{1000 * low:.1f} .. {1000 * high:.1f}"
        rows.append([name, f"{1000 * middle:.1f}", spread, f"{speed[name]:.1f}", *ratios])
    heads = [f"{threads} thread(s)", "median ms", "quartiles", "GB/s"]
    heads += [f"/ {limit}", "/ copy", "best / best"]
    print_table(heads, rows)
    print_json(
        "merge_bandwidth",
        parameters=layout.n_parameters,
        experts=K,
        rounds=rounds,
        limit=limit,
        gigabytes_per_second=speed,
        seconds={name: median_and_spread(times[name])[0] for name in merges},
        ratio={name: against(name)[0] for name in merges},
        ratio_to_copy={name: against(name)[1] for name in merges},
        ratio_of_best_times={name: against(name)[2] for name in merges},
        aim=1.2,
    )


if __name__ == "__main__":
    main()
