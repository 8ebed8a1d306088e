"""Recipes of LoRA adapters: what they make of full models, whole or as one adapter for peft."""

import json
import shutil

import pytest
import tiny
import torch
from lora import base_model, merged_by_peft, outputs, train
from safetensors.torch import load_file, save_file

from moofusion.errors import ConfigurationError, PoolError
from moofusion.merging import pieces
from moofusion.merging.adapter_merge import merge_adapters
from moofusion.merging.recipe import MergeRecipe
from moofusion.merging.streaming import StreamedMerge, merge_checkpoints

peft = pytest.importorskip("peft")
# peft asks transformers by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
WEIGHTS = {"x": 0.5, "y": 0.3, "z": -0.2}
POSITIVE = {"x": 0.5, "y": 0.3, "z": 0.2}


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def models(request, tmp_path_factory):
    """Base and adapters, and beside them the full models that peft makes. Read only."""
    kind, root = request.param, tmp_path_factory.mktemp(request.param)
    base_model(kind).save_pretrained(root / "base")
    options = {"x": {}, "y": {"r": 3}, "z": {"use_rslora": True}}
    for seed, (name, changes) in enumerate(options.items()):
        train(kind, root / name, seed, **changes)
        merged_by_peft(kind, root / name).save_pretrained(root / "full" / name)
    return kind, root


def recipe(root, merge="linear", full=False, **changes):
    options = {"base": "base", "merge": {"method": merge}, "coefficients": WEIGHTS}
    experts = {name: f"full/{name}" if full else name for name in "xyz"}
    return MergeRecipe(**(options | {"experts": experts} | changes), folder=str(root))


def read(folder):
    return load_file(folder / "model.safetensors")


METHODS = [
    ("linear", WEIGHTS), ("ties", WEIGHTS), ("dare", WEIGHTS), ("tsv", POSITIVE),
    ("model-stock", WEIGHTS), ("average", POSITIVE), ("slerp", POSITIVE),
]  # fmt: skip


@pytest.mark.parametrize(("method", "weights"), METHODS)
def test_adapters_are_merged_as_the_full_models_of_peft_are(models, tmp_path, method, weights):
    _, root = models
    merge_checkpoints(recipe(root, method, coefficients=weights), tmp_path / "out")
    given = recipe(root, method, full=True, coefficients=weights)
    merge_checkpoints(given, tmp_path / "expected")
    found, expected = read(tmp_path / "out"), read(tmp_path / "expected")
    assert found.keys() == expected.keys()
    base = read(root / "base")
    moved = 0
    for key, value in expected.items():
        assert torch.allclose(found[key], value, atol=2e-6), key
        moved += not torch.allclose(base[key], value, atol=1e-3)
    assert moved >= 2


@pytest.mark.parametrize("entries", [40, 300])
def test_pieces_of_an_adapted_tensor_are_those_of_the_whole(models, monkeypatch, entries):
    _, root = models
    monkeypatch.setattr(pieces, "_ENTRIES", entries)
    for name, model in StreamedMerge(recipe(root)).experts.items():
        expected = read(root / "full" / name)
        assert set(model.names) == set(expected)
        for key, value in expected.items():
            assert torch.allclose(pieces.finite(model, key), value, atol=1e-7), key


def test_full_models_and_adapters_can_be_mixed(models, tmp_path):
    _, root = models
    experts = {"x": "x", "y": "full/y"}
    mixed = recipe(root, experts=experts, coefficients={"x": 0.5, "y": 0.3})
    merge_checkpoints(mixed, tmp_path / "out")
    found, base = read(tmp_path / "out"), read(root / "base")
    x, y = read(root / "full" / "x"), read(root / "full" / "y")
    for key, value in found.items():
        expected = base[key] + 0.5 * (x[key] - base[key]) + 0.3 * (y[key] - base[key])
        assert torch.allclose(value, expected, atol=1e-6), key
    with pytest.raises(PoolError, match="'y' is a full model"):
        merge_adapters(mixed, tmp_path / "adapter")


def loaded(kind, folder):
    return outputs(peft.PeftModel.from_pretrained(base_model(kind), folder).eval())


@pytest.mark.parametrize(
    ("method", "how", "rank"),
    [("linear", "svd", None), ("linear", "cat", None), ("ties", "svd", 16)],
)
def test_an_adapter_is_the_same_merge_as_the_full_model(models, tmp_path, method, how, rank):
    kind, root = models
    merge_checkpoints(recipe(root, method), tmp_path / "full")
    merge_adapters(recipe(root, method), tmp_path / "adapter", how=how, rank=rank)
    whole = type(base_model(kind)).from_pretrained(tmp_path / "full").eval()
    # The classifier of bert is merged by the full model's recipe and is in the adapter too.
    assert torch.allclose(loaded(kind, tmp_path / "adapter"), outputs(whole), atol=1e-5)
    assert not torch.allclose(outputs(whole), outputs(base_model(kind)), atol=1e-2)
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "library_name: peft" in card
    record = json.loads((tmp_path / "adapter" / "merge.json").read_text())
    assert record["adapter"] == {"how": how, "rank": rank}


def test_factors_added_up_are_what_peft_adds_up(tmp_path):
    base_model("gpt2").save_pretrained(tmp_path / "base")
    for seed, name in enumerate("xyz"):
        train("gpt2", tmp_path / name, seed)
    merge_adapters(recipe(tmp_path), tmp_path / "out", how="linear")
    model = peft.PeftModel.from_pretrained(base_model("gpt2"), tmp_path / "x", adapter_name="x")
    for name in "yz":
        model.load_adapter(tmp_path / name, adapter_name=name)
    row = list(WEIGHTS.values())
    model.add_weighted_adapter(list(WEIGHTS), row, "sum", combination_type="linear")
    model.set_adapter("sum")
    assert torch.allclose(loaded("gpt2", tmp_path / "out"), outputs(model.eval()), atol=1e-5)


def test_the_dtype_of_an_adapter(models, tmp_path):
    _, root = models
    for dtype, expected in (("same", torch.float32), ("bfloat16", torch.bfloat16)):
        merge_adapters(recipe(root, dtype=dtype), tmp_path / dtype)
        stored = load_file(tmp_path / dtype / "adapter_model.safetensors")
        assert {value.dtype for value in stored.values()} == {expected}


def test_a_tied_output_in_the_files_of_the_base_is_left_out(tmp_path):
    base_model("gpt2").save_pretrained(tmp_path / "base")
    tiny.edit_weights(
        tmp_path / "base", lambda s: s | {"lm_head.weight": s["transformer.wte.weight"].clone()}
    )
    train("gpt2", tmp_path / "x", 1, target_modules=["wte"])
    merge_checkpoints(recipe(tmp_path, experts={"x": "x"}, coefficients={"x": 1.0}),
                      tmp_path / "out")  # fmt: skip
    assert "lm_head.weight" not in read(tmp_path / "out")
    whole = type(base_model("gpt2")).from_pretrained(tmp_path / "out").eval()
    assert torch.allclose(
        outputs(whole), outputs(merged_by_peft("gpt2", tmp_path / "x")), atol=1e-5
    )


def test_names_of_the_body_without_its_prefix_are_found(models, tmp_path):
    """As the files of gpt2 on the hub are."""
    kind, root = models
    if kind != "gpt2":
        pytest.skip("one kind is enough")
    for name in ("base", "x"):
        shutil.copytree(root / name, tmp_path / name)
    tiny.edit_weights(
        tmp_path / "base", lambda s: {k.removeprefix("transformer."): v for k, v in s.items()}
    )
    given = recipe(tmp_path, experts={"x": "x"}, coefficients={"x": 1.0})
    merge_checkpoints(given, tmp_path / "out")
    expected = read(root / "full" / "x")
    for key, value in read(tmp_path / "out").items():
        assert torch.allclose(value, expected[f"transformer.{key}"], atol=1e-6), key


def test_what_cannot_be_merged_is_said(models, tmp_path):
    kind, root = models
    with pytest.raises(PoolError, match="so the recipe has to name its base"):
        merge_checkpoints(recipe(root, "average", base=None, coefficients={"x": 1.0}),
                          tmp_path / "out")  # fmt: skip
    with pytest.raises(PoolError, match=r"base: .* holds a LoRA adapter"):
        merge_checkpoints(recipe(root, base="x"), tmp_path / "out")
    with pytest.raises(ConfigurationError, match="no merge by 'ties'"):
        merge_adapters(recipe(root, "ties"), tmp_path / "out", how="cat")
    if kind == "bert":
        shutil.copytree(root / "x", tmp_path / "x")
        file = tmp_path / "x" / "adapter_model.safetensors"
        key = "base_model.model.classifier."
        heads = {f"{key}weight": torch.ones(5, 16), f"{key}bias": torch.ones(5)}
        save_file(load_file(file) | heads, file)
        given = recipe(root, experts={"x": str(tmp_path / "x")}, coefficients={"x": 1.0})
        with pytest.raises(PoolError, match=r"of another shape \(classifier"):
            merge_checkpoints(given, tmp_path / "out")
    shutil.copytree(root / "base", tmp_path / "base")
    tiny.edit_weights(tmp_path / "base", lambda s: dict(list(s.items())[:1]))
    given = recipe(root, base=str(tmp_path / "base"))
    with pytest.raises(PoolError, match="which the files of base do not hold"):
        merge_checkpoints(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_coefficients_reach_the_factors_by_groups(models, tmp_path):
    """A group of its own for one layer, with the factors combined and with the merge compressed."""
    kind, root = models
    part = {"gpt2": "*c_fc*", "bert": "*query*"}[kind]
    groups = [{"match": part, "coefficients": {"y": 0.9}}]
    for how in ("cat", "svd"):
        merge_adapters(recipe(root, groups=groups), tmp_path / how, how=how)
    assert torch.allclose(loaded(kind, tmp_path / "cat"), loaded(kind, tmp_path / "svd"), atol=1e-5)
    merge_adapters(recipe(root), tmp_path / "plain", how="cat")
    found, plain = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("cat", "plain")
    )
    factors = [key for key in found if "lora_A" in key]
    changed = {key for key in factors if not torch.equal(found[key], plain[key])}
    assert changed == {key for key in factors if part.strip("*") in key}
