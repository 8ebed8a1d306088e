"""LoRA adapters as experts: what peft makes of them, and adapters written for peft."""

import json
import shutil

import numpy as np
import pytest
import tiny
import torch
from lora import base_model, merged_by_peft, outputs, train
from safetensors.torch import load_file, save_file

from moofusion.errors import ConfigurationError, PoolError
from moofusion.problems import MergeProblem
from moofusion.problems.export import export_adapter
from moofusion.tasks import FunctionTask, LabelledData, TextClassification
from moofusion.weights import ModelPool
from moofusion.weights.adapters import read_adapter

peft = pytest.importorskip("peft")
# peft asks transformers by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def adapters(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    folders = {"x": train(request.param, place / "x", 1), "y": train(request.param, place / "y", 2)}
    folders["z"] = train(request.param, place / "z", 3, use_rslora=True)
    return request.param, folders


def problem_of(kind, folders):
    def task(name):
        return FunctionTask(name, lambda model: -float(outputs(model).square().mean()), head=name)

    return MergeProblem(ModelPool(base_model(kind), folders), [task(name) for name in folders])


def test_one_hot_merges_are_what_peft_makes(adapters):
    kind, folders = adapters
    loaded = ModelPool(base_model(kind), folders).load()
    assert set(loaded.adapters) == set(folders)
    for k, (name, folder) in enumerate(folders.items()):
        loaded.model.weights.copy_(loaded.vectors.expert(k))
        expected = merged_by_peft(kind, folder)
        assert torch.allclose(outputs(loaded.model.modules[name]), outputs(expected), atol=1e-6)
        theirs = dict(expected.named_parameters())
        ours = dict(loaded.model.modules[name].named_parameters())
        assert theirs.keys() == ours.keys()
        for key, value in theirs.items():
            assert torch.allclose(ours[key], value, atol=1e-7), key


def test_the_base_stays_as_it_was(adapters):
    kind, folders = adapters
    base = base_model(kind)
    loaded = ModelPool(base, folders).load()
    assert torch.equal(outputs(loaded.model.modules["base"]), outputs(base))


@pytest.mark.parametrize("changes", [
    {"r": 3, "rank_pattern": {"query": 1}, "alpha_pattern": {r"layer.0.*value": 5}},
    {"use_rslora": True, "r": 4},
    {"target_modules": ["dense", "word_embeddings"]},
])  # fmt: skip
def test_ranks_and_alphas_of_single_layers(changes, tmp_path):
    folder = train("bert", tmp_path / "a", 4, **changes)
    loaded = ModelPool(base_model("bert"), {"a": folder}).load()
    loaded.model.weights.copy_(loaded.vectors.expert(0))
    expected = outputs(merged_by_peft("bert", folder))
    assert torch.allclose(outputs(loaded.model.modules["a"]), expected, atol=1e-6)


def test_a_classifier_of_another_size_is_the_head(tmp_path):
    from transformers import BertForSequenceClassification

    folder = train("bert", tmp_path / "a", 4)
    file = folder / "adapter_model.safetensors"
    stored = load_file(file)
    key = "base_model.model.classifier."
    stored[f"{key}weight"], stored[f"{key}bias"] = torch.randn(5, 16), torch.randn(5)
    save_file(stored, file)
    loaded = ModelPool(base_model("bert"), {"a": folder}).load()
    model = loaded.model.modules["a"]
    assert outputs(model).shape == (2, 5)
    assert model.config.num_labels == 5
    assert outputs(loaded.model.modules["base"]).shape == (2, 2)
    assert isinstance(model, BertForSequenceClassification)


def export(adapters, to, row, **options):
    kind, folders = adapters
    problem = problem_of(kind, folders)
    L = np.array([row])
    export_adapter(problem, L, task="x", to=to, **options)
    written = peft.PeftModel.from_pretrained(base_model(kind), to).eval()
    problem.evaluator.pool.model.weights.copy_(problem.evaluator.weights(L))
    return outputs(written), outputs(problem.evaluator.pool.model.modules["x"])


def without_head(folder, to):
    """The factors alone: peft sums no adapters that bring heads."""
    shutil.copytree(folder, to)
    file = to / "adapter_config.json"
    plain = {"modules_to_save": None, "task_type": None}
    file.write_text(json.dumps(json.loads(file.read_text()) | plain))
    stored = load_file(to / "adapter_model.safetensors")
    factors = {key: value for key, value in stored.items() if "lora_" in key}
    save_file(factors, to / "adapter_model.safetensors")
    return to


@pytest.mark.parametrize("how", ["cat", "svd"])
def test_exact_exports_are_the_merge(adapters, tmp_path, how):
    written, merged = export(adapters, tmp_path / "out", [0.5, 0.3, -0.2], how=how)
    assert torch.allclose(written, merged, atol=1e-5)


@pytest.mark.parametrize("how", ["cat", "svd", "linear"])
def test_exports_are_those_of_peft(adapters, tmp_path, how):
    kind, folders = adapters
    row = [0.5, 0.3, -0.2]
    rank = 2 if how == "svd" else None
    written, _ = export(adapters, tmp_path / "out", row, how=how, rank=rank)
    base = base_model(kind)
    base.load_state_dict(read_adapter(folders["x"], role="x").saved, strict=False)
    bare = {name: without_head(folder, tmp_path / name) for name, folder in folders.items()}
    # The sum takes rslora from the first adapter; x has none.
    model = peft.PeftModel.from_pretrained(base, bare["x"], adapter_name="x")
    for name in ("y", "z"):
        model.load_adapter(bare[name], adapter_name=name)
    options = {"svd_rank": rank} if rank else {}
    model.add_weighted_adapter(["x", "y", "z"], row, "sum", combination_type=how, **options)
    model.set_adapter("sum")
    assert torch.allclose(written, outputs(model.eval()), atol=1e-5)


def test_a_merge_by_another_method_is_compressed(adapters, tmp_path):
    kind, folders = adapters
    problem = problem_of(kind, folders)
    ties = MergeProblem(
        ModelPool(base_model(kind), folders), problem.tasks, merge={"method": "ties"}
    )
    L = np.array([[0.7, 0.7, 0.7]])
    with pytest.raises(ConfigurationError, match="no merge by 'ties'"):
        export_adapter(ties, L, task="x", to=tmp_path / "cat", how="cat")
    export_adapter(ties, L, task="x", to=tmp_path / "out", rank=16)
    written = outputs(peft.PeftModel.from_pretrained(base_model(kind), tmp_path / "out").eval())
    ties.evaluator.pool.model.weights.copy_(ties.evaluator.weights(L))
    assert torch.allclose(written, outputs(ties.evaluator.pool.model.modules["x"]), atol=1e-5)


def test_sums_of_factors_need_one_rank(tmp_path):
    folders = {"x": train("gpt2", tmp_path / "x", 1), "y": train("gpt2", tmp_path / "y", 2, r=3)}
    problem = problem_of("gpt2", folders)
    with pytest.raises(ConfigurationError, match=r"got ranks \[2, 3\]"):
        export_adapter(problem, np.ones((1, 2)), task="x", to=tmp_path / "out", how="linear")
    export_adapter(problem, np.ones((1, 2)), task="x", to=tmp_path / "out", how="cat")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 5
    mixed = problem_of("gpt2", {"x": folders["x"], "full": tiny.drift(base_model("gpt2"), 1)})
    with pytest.raises(PoolError, match="'full' is a full model"):
        export_adapter(mixed, np.ones((1, 2)), task="x", to=tmp_path / "other")


@pytest.mark.parametrize(("changes", "words"), [
    ({"use_dora": True}, "DoRA"),
    ({"bias": "all"}, "bias = 'all'"),
    ({"lora_bias": True}, "the factors have biases"),
    ({"init_lora_weights": "pissa"}, "relative to a changed base"),
    ({"peft_type": "IA3"}, "kind 'IA3'"),
    ({"trainable_token_indices": [1]}, "single rows"),
])  # fmt: skip
def test_what_is_no_plain_update_is_refused(adapters, tmp_path, changes, words):
    shutil.copytree(adapters[1]["x"], tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(PoolError, match=words):
        read_adapter(tmp_path / "a", role="expert 'a'")


def test_pickled_damaged_and_foreign_adapters(adapters, tmp_path):
    kind, folders = adapters
    shutil.copytree(folders["x"], tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    stored = load_file(file)
    first = next(key for key in stored if key.endswith("lora_A.weight"))
    save_file(stored | {"base_model.model.extra": torch.ones(1)}, file)
    with pytest.raises(PoolError, match="neither a factor"):
        read_adapter(tmp_path / "a", role="a")
    save_file(stored | {first: stored[first] * float("nan")}, file)
    with pytest.raises(PoolError, match="NaN"):
        read_adapter(tmp_path / "a", role="a")
    save_file({k: v for k, v in stored.items() if k != first}, file)
    with pytest.raises(PoolError, match="do not fit each other"):
        read_adapter(tmp_path / "a", role="a")
    save_file(stored | {first: stored[first][:, 1:].contiguous()}, file)
    with pytest.raises(PoolError, match="trained on another base"):
        ModelPool(base_model(kind), {"a": tmp_path / "a"}).load()
    save_file({k.replace("0", "7"): v for k, v in stored.items()}, file)
    with pytest.raises(PoolError, match="which the base has not"):
        ModelPool(base_model(kind), {"a": tmp_path / "a"}).load()
    file.rename(tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(PoolError, match="unpickling can run code"):
        read_adapter(tmp_path / "a", role="a")


def test_problems_have_gradients(tmp_path, rng):
    folders = {"x": train("bert", tmp_path / "x", 1, 1.0)}
    folders["y"] = train("bert", tmp_path / "y", 2, 1.0, r=3)

    def task(name, seed):
        texts = {"search": tiny.sentences(24, seed), "train": tiny.sentences(24, seed + 1)}
        labels = {split: rng.integers(0, 2, 24) for split in texts}
        data = LabelledData(texts, labels, ("-", "+"))
        return TextClassification(name, data, tokenizer=tiny.tokenizer(), objective="loss")

    problem = MergeProblem(
        ModelPool(base_model("bert"), folders), [task("x", 3), task("y", 5)], space="block-wise"
    )
    x = rng.uniform(0.2, 0.6, problem.n_var)
    F, dF = problem.evaluate(x[None], return_values_of=["F", "dF"])
    move = rng.normal(size=problem.n_var)
    up, down = problem.evaluate(np.stack([x + 0.02 * move, x - 0.02 * move]))
    assert F.shape == (1, 2)
    assert np.abs(dF).max() > 1e-3
    assert dF[0] @ move == pytest.approx((up - down) / 0.04, rel=0.05, abs=1e-3)


def test_a_tied_layer_is_refused(tmp_path):
    train("gpt2", tmp_path / "a", 1)
    layer = "base_model.model.lm_head.lora_"
    factors = {f"{layer}A.weight": torch.ones(2, 16), f"{layer}B.weight": torch.ones(18, 2)}
    save_file(factors, tmp_path / "a" / "adapter_model.safetensors")
    with pytest.raises(PoolError, match="tied to another layer"):
        ModelPool(base_model("gpt2"), {"a": tmp_path / "a"}).load()
