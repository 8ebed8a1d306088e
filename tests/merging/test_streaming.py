"""Merging from disk to disk: the numbers of a merge in memory, little memory, all or nothing."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from moofusion.errors import ConfigurationError, PoolError, RunError
from moofusion.merging import METHODS, make_method, pieces
from moofusion.merging.methods import Ties
from moofusion.merging.recipe import MergeRecipe, read_recipe
from moofusion.merging.streaming import merge_checkpoints
from moofusion.weights import ModelPool
from moofusion.weights.shards import Checkpoint

NAMES = ("a", "b", "c")
L = {"a": 0.4, "b": 0.25, "c": 0.1}
STREAMED = [name for name in METHODS if name not in ("fisher", "regmean")]
MERGES = [{"method": name} for name in STREAMED]
MERGES += [{"method": "ties", "scope": "tensor"}, {"method": "slerp", "of": "task-vectors"}]
MERGES += [{"method": "slerp", "norms": "own"}]
MERGES += [{"method": "ties", "density": density} for density in (0.03, 0.5, 1.0)]
MERGES += [{"method": "dare", "elect": True}, {"method": "della", "elect": False}]
MERGES += [{"method": "breadcrumbs", "elect": True}, {"method": "low-rank", "rank": 1.0}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small language model with tied embeddings and three that drifted from it, in shards."""
    from transformers import LlamaForCausalLM

    root = tmp_path_factory.mktemp("llamas")
    for i, name in enumerate(("base", *NAMES)):
        model = tiny.build(LlamaForCausalLM, tiny.llama_config(tie_word_embeddings=True))
        if i:
            tiny.drift(model, i)
        model.tie_weights()
        model.save_pretrained(root / name, max_shard_size="8KB" if i == 1 else "5GB")
    tiny.tokenizer().save_pretrained(root / "base")
    return root


def recipe(folder, merge=None, **options):
    return MergeRecipe(
        **{"base": "base", "experts": {n: n for n in NAMES}, "coefficients": L} | options,
        merge=merge or {"method": "linear"},
        folder=str(folder),
    )


def read(folder):
    state = {}
    for file in folder.glob("*.safetensors"):
        state |= load_file(file)
    return state


@pytest.fixture(scope="module")
def loaded(folder):
    return ModelPool(folder / "base", {n: folder / n for n in NAMES}, heads="none").load()


@pytest.mark.parametrize("merge", MERGES, ids=str)
def test_every_method_gives_what_it_gives_in_memory(folder, loaded, tmp_path, merge):
    merge_checkpoints(recipe(folder, merge), tmp_path / "out", shard_bytes=6000)
    state = read(tmp_path / "out")
    method, layout = make_method(merge), loaded.layout
    bound = method.bind(loaded.vectors, layout.partition("model"), static=np.zeros(3))
    flat = bound(np.array([list(L.values())]), out=torch.empty(layout.size))
    # Bodies are laid out without their prefix.
    assert len(state) == len(layout.entries)
    for entry in layout.entries:
        found = state.get(entry.name, state.get(f"model.{entry.name}"))
        assert torch.allclose(found.flatten(), flat[entry.slice], atol=1e-6), entry.name


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("entries", [1000, 1 << 22])
def test_thresholds_are_exact_whatever_the_pieces(folder, monkeypatch, scope, entries):
    monkeypatch.setattr(pieces, "_ENTRIES", entries)
    models = {n: Checkpoint(folder / n, role=n) for n in ("base", *NAMES)}
    base = models.pop("base")
    names = base.names if scope == "model" else base.names[:1]
    deltas = [
        torch.cat([(m.read(n) - base.read(n)).flatten() for n in names]) for m in models.values()
    ]
    for density in (1e-9, 0.03, 0.5, 1.0):
        keep = max(1, int(density * len(deltas[0])))
        expected = tuple(float(d.abs().sort(descending=True).values[keep - 1]) for d in deltas)
        found = pieces.trimming(Ties(density=density), names, base, models)
        assert found.thresholds == expected


def test_transformers_reads_the_result_and_the_tie_holds(folder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merge_checkpoints(recipe(folder), tmp_path / "out", shard_bytes=6000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    parts = [load_file(folder / n / "model.safetensors") for n in ("base", "b", "c")]
    parts.insert(1, read(folder / "a"))
    key = "model.embed_tokens.weight"
    expected = parts[0][key] + sum(
        w * (p[key] - parts[0][key]) for w, p in zip(L.values(), parts[1:], strict=True)
    )
    assert torch.allclose(model.lm_head.weight, expected, atol=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a b")["input_ids"] == [2, 3]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "task arithmetic" in card
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["coefficients"] == L


def test_a_tied_output_that_some_files_repeat_is_left_out(folder, tmp_path):
    for name in ("base", "b"):
        (tmp_path / name).mkdir()
        for file in (folder / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    tiny.edit_weights(
        tmp_path / "b", lambda s: s | {"lm_head.weight": s["model.embed_tokens.weight"].clone()}
    )
    merge_checkpoints(recipe(tmp_path, experts={"b": "b"}, coefficients={"b": 0.5}),
                      tmp_path / "out")  # fmt: skip
    assert "lm_head.weight" not in read(tmp_path / "out")


@pytest.mark.parametrize("merge", [{"method": m} for m in ("linear", "average", "slerp")], ids=str)
def test_one_hot_coefficients_copy_the_expert_bit_for_bit(folder, tmp_path, merge):
    merge_checkpoints(recipe(folder, merge, coefficients={"b": 1.0}), tmp_path / "out")
    state, expert = read(tmp_path / "out"), read(folder / "b")
    assert state.keys() == expert.keys()
    assert all(torch.equal(state[key], expert[key]) for key in expert)


def test_groups_take_coefficients_of_their_own(folder, tmp_path):
    groups = [{"match": "*.mlp.*", "coefficients": {"c": 1.0}}]
    merge_checkpoints(recipe(folder, coefficients={"a": 1.0}, groups=groups), tmp_path / "out")
    state, a, c = (read(p) for p in (tmp_path / "out", folder / "a", folder / "c"))
    for key in state:
        assert torch.equal(state[key], c[key] if ".mlp." in key else a[key]), key


def test_formats_are_kept_or_chosen_and_sums_are_single_precision(folder, tmp_path):
    for name in ("base", *NAMES):
        state = {k: v.bfloat16() for k, v in read(folder / name).items()}
        state["steps"] = torch.arange(3)
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    halves = {name: read(tmp_path / name) for name in ("base", *NAMES)}
    for dtype, expected in (("same", torch.bfloat16), ("float16", torch.float16)):
        merge_checkpoints(recipe(tmp_path, dtype=dtype), tmp_path / f"out-{dtype}")
        state = read(tmp_path / f"out-{dtype}")
        assert torch.equal(state["steps"], torch.arange(3))
        for key, value in state.items():
            if key != "steps":
                base = halves["base"][key].double()
                exact = base + sum(w * (halves[n][key].double() - base) for n, w in L.items())
                assert value.dtype == expected
                # Rounded once: all but the few that fall between two numbers are the nearest one.
                rounded = exact.to(expected)
                assert torch.allclose(value.double(), exact, rtol=2**-8), key
                assert (value == rounded).float().mean() > 0.9, key
        config = json.loads((tmp_path / f"out-{dtype}" / "config.json").read_text())
        assert config["dtype"] == ("bfloat16" if dtype == "same" else dtype)


def test_an_average_needs_no_base(folder, tmp_path):
    options = {"base": None, "coefficients": {"a": 1.0, "b": 3.0}}
    merge_checkpoints(recipe(folder, {"method": "average"}, **options), tmp_path / "out")
    state, a, b = (read(p) for p in (tmp_path / "out", folder / "a", folder / "b"))
    for key in state:
        assert torch.allclose(state[key], 0.25 * a[key] + 0.75 * b[key], atol=1e-6)


# ------------------------------------------------------------------ memory, interruptions, errors

SCRIPT = """
    import resource, sys
    from pathlib import Path
    import torch
    from moofusion.merging.recipe import MergeRecipe
    from moofusion.merging.streaming import merge_checkpoints
    torch.set_num_threads(1)
    method, folder, out = sys.argv[1:]
    merge_checkpoints(MergeRecipe(base="base", experts={n: n for n in "ab"}, folder=folder,
                      merge={"method": "linear"}, coefficients={"a": 0.3, "b": 0.3}), out + "0")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    experts = {f"e{i}": "a" if i % 2 else "b" for i in range(6)}
    merge_checkpoints(MergeRecipe(base="base", experts=experts, folder=folder,
                      merge={"method": method}, coefficients=dict.fromkeys(experts, 0.2)), out)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Three checkpoints of 128 MB in two files each; the largest tensor has 4 MB."""
    root = tmp_path_factory.mktemp("large")
    for name in ("base", "a", "b"):
        (root / name).mkdir()
        index = {}
        for part in range(2):
            state = {f"layer.{part}.{i}.weight": torch.randn(1024, 1024) for i in range(16)}
            save_file(state, root / name / f"part{part}.safetensors")
            index |= dict.fromkeys(state, f"part{part}.safetensors")
        (root / name / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    small = root / "small"
    for name in ("base", "a", "b"):
        (small / name).mkdir(parents=True)
        save_file({"w": torch.randn(8, 8)}, small / name / "model.safetensors")
    return root


def test_memory_is_a_few_tensors_whatever_the_size_of_the_model(large, tmp_path):
    script = textwrap.dedent(SCRIPT).replace(
        'folder=folder,\n                  merge={"method": "linear"}',
        'folder=folder + "/small",\n                  merge={"method": "linear"}',
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "linear", str(large), str(tmp_path / "out")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    # 7 files of 128 MB are read and one is written; six experts of 4 MB tensors pass by.
    assert float(done.stdout) < 60
    state = read(tmp_path / "out")
    base, a, b = (read(large / n) for n in ("base", "a", "b"))
    key = "layer.1.7.weight"
    expected = base[key] + 0.6 * (a[key] - base[key]) + 0.6 * (b[key] - base[key])
    assert torch.allclose(state[key], expected, atol=1e-5)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk", "key"])
def test_an_interrupted_merge_leaves_nothing_behind(folder, tmp_path, monkeypatch, error):
    from moofusion.weights.shards import ShardWriter

    merge_checkpoints(recipe(folder), tmp_path / "old")
    before = read(tmp_path / "old")
    original = ShardWriter.write

    def broken(self, name, tensor):
        if "norm" in name:
            raise error
        original(self, name, tensor)

    monkeypatch.setattr(ShardWriter, "write", broken)
    for name, force in (("new", False), ("old", True)):
        with pytest.raises((RunError, KeyboardInterrupt)):
            merge_checkpoints(recipe(folder, coefficients={"a": 0.9}), tmp_path / name, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert all(torch.equal(read(tmp_path / "old")[key], value) for key, value in before.items())


def test_what_does_not_fit_is_named(folder, tmp_path):
    merge_checkpoints(recipe(folder), tmp_path / "mine")
    with pytest.raises(RunError, match="mine exists already; --force replaces it"):
        merge_checkpoints(recipe(folder), tmp_path / "mine")
    for name in ("base", "b"):
        (tmp_path / name).mkdir()
        state = read(folder / name)
        if name == "b":
            state["model.norm.weight"] = state["model.norm.weight"][:3].clone()
            state["extra"] = state.pop("model.layers.0.mlp.up_proj.weight")
        save_file(state, tmp_path / name / "model.safetensors")
    with pytest.raises(PoolError) as caught:
        merge_checkpoints(recipe(tmp_path, experts={"b": "b"}, coefficients={"b": 1.0}),
                          tmp_path / "out")  # fmt: skip
    for words in ("expert 'b' does not fit base", "1 missing (model.layers.0.mlp.up_proj.weight)",
                  "1 extra (extra)", "1 of another shape (model.norm.weight)"):  # fmt: skip
        assert words in str(caught.value)
    tiny.edit_weights(tmp_path / "base", lambda s: {k: v * float("nan") for k, v in s.items()})
    with pytest.raises(PoolError, match=r"base: tensor .* holds NaN"):
        merge_checkpoints(recipe(tmp_path, experts={"x": "base"}, coefficients={"x": 1.0}),
                          tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("merge", "words"),
    [
        ({"method": "fisher"}, "'fisher' needs more than one tensor .* export the result"),
        ({"method": "regmean"}, "'regmean' needs more than one tensor .* export the result"),
    ],
)
def test_methods_that_need_more_are_refused(folder, tmp_path, merge, words):
    with pytest.raises(ConfigurationError, match=words):
        merge_checkpoints(recipe(folder, merge), tmp_path / "out")


# ------------------------------------------------------------------ recipe files

FILE = """
base = "base"
dtype = "bfloat16"

[experts]
a = "a"
b = "b"

[merge]
method = "dare"
density = 0.5

[coefficients]
a = 0.3

[[groups]]
match = "*.mlp.*"
coefficients = { a = 0.1, b = 0.7 }
"""


def test_a_recipe_file_is_read_and_written(tmp_path):
    (tmp_path / "r.toml").write_text(FILE)
    found = read_recipe(tmp_path / "r.toml")
    assert found.method == make_method({"method": "dare", "density": 0.5})
    assert found.row("x.mlp.weight").tolist() == [0.1, 0.7]
    assert found.row("x.attn.weight").tolist() == [0.3, 0.0]
    (tmp_path / "again.toml").write_text(found.to_toml())
    assert read_recipe(tmp_path / "again.toml") == found


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[merge]", "[marge]", ["key 'marge'", "Known keys: base, experts, merge"]),
        ("density", "densty", ["parameter of merge method 'dare'", "did you mean 'density'"]),
        ("a = 0.3", "z = 0.3", ["coefficient of 'z', which is no expert (a, b)"]),
        ("a = 0.3", "a = 'x'", ["key 'coefficients.a'", "valid number"]),
        ('base = "base"', "", ["'dare' needs a base"]),
        ("bfloat16", "int4", ["key 'dtype'", "'same', 'float32'"]),
        ('base = "base"', "base =", ["not valid TOML"]),
    ],
)
def test_wrong_recipes_are_explained(tmp_path, old, new, words):
    (tmp_path / "r.toml").write_text(FILE.replace(old, new, 1))
    with pytest.raises(ConfigurationError) as caught:
        read_recipe(tmp_path / "r.toml")
    for word in ["r.toml", *words]:
        assert word in str(caught.value), f"{word!r} is missing from: {caught.value}"
