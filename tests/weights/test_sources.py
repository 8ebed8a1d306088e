"""Bad pools: every kind is refused with one error that names the model and what is wrong."""

import json
import shutil
from types import SimpleNamespace

import pytest
import tiny
import torch

from moofusion.errors import ConfigurationError, PoolError
from moofusion.weights import ModelPool

# The name of a tensor in the file, and in the model.
FC1 = "vit.encoder.layer.1.intermediate.dense", "layers.1.mlp.fc1"
QUERY = "vit.encoder.layer.1.attention.attention.query", "layers.1.attention.q_proj"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A headed base and an expert; copied before anything is broken."""
    root = tmp_path_factory.mktemp("good")
    tiny.save(tiny.vit(), root / "base")
    tiny.save(tiny.vit(1), root / "expert")
    return root


@pytest.fixture
def base(good, tmp_path):
    return shutil.copytree(good / "base", tmp_path / "base")


@pytest.fixture
def expert(good, tmp_path):
    return shutil.copytree(good / "expert", tmp_path / "expert")


def _refused(base, expert, *words, error=PoolError, **options):
    with pytest.raises(error) as caught:
        ModelPool(base, {"cats": expert}, **options).load()
    for word in words:
        assert str(word) in str(caught.value), f"{word!r} is missing from: {caught.value}"
    return str(caught.value)


# --------------------------------------------------------------------- models that do not fit


def test_another_architecture(base, tmp_path):
    from transformers import BertForSequenceClassification

    other = tiny.save(tiny.build(BertForSequenceClassification, tiny.bert_config()), tmp_path / "b")
    _refused(base, other, "expert 'cats'", "another architecture", "'bert'", "'vit'")


def test_another_architecture_among_modules():
    _refused(tiny.net(), tiny.net(depth=2), "expert 'cats'", "missing", "layers.2.norm.weight")


def test_a_missing_tensor(base, expert):
    tiny.edit_weights(expert, lambda t: {k: v for k, v in t.items() if k != f"{FC1[0]}.weight"})
    _refused(base, expert, "expert 'cats'", "lacks 1 tensor", f"{FC1[1]}.weight")


def test_a_missing_tensor_of_the_base(base, expert):
    tiny.edit_weights(base, lambda t: {k: v for k, v in t.items() if k != f"{FC1[0]}.weight"})
    _refused(base, expert, "base", "lacks 1 tensor", f"{FC1[1]}.weight")


def test_a_missing_pooler_of_a_classifier(tmp_path):
    from transformers import BertForSequenceClassification

    model = tiny.build(BertForSequenceClassification, tiny.bert_config())
    base, expert = tiny.save(model, tmp_path / "base"), tiny.save(model, tmp_path / "expert")
    tiny.edit_weights(expert, lambda t: {k: v for k, v in t.items() if "pooler" not in k})
    _refused(base, expert, "expert 'cats'", "lacks 2 tensor(s)", "bert.pooler.dense")


@pytest.mark.parametrize("extra", ["vit.layers.0.mlp.gate.weight", "adapter.weight"])
def test_an_extra_tensor(base, expert, extra):
    tiny.edit_weights(expert, lambda t: t | {extra: torch.ones(2)})
    _refused(base, expert, "expert 'cats'", "unexpected 1 tensor", extra)


def test_an_extra_tensor_of_the_base(base, expert):
    tiny.edit_weights(base, lambda t: t | {"vit.layers.0.mlp.gate.weight": torch.ones(2)})
    _refused(base, expert, "base", "unexpected 1 tensor", "vit.layers.0.mlp.gate.weight")


def test_an_extra_layer(base, tmp_path):
    deeper = tiny.save(tiny.vit(num_hidden_layers=3), tmp_path / "deeper")
    _refused(base, deeper, "expert 'cats'", "extra", "layers.2.")


def test_a_wider_expert(base, tmp_path):
    wider = tiny.save(tiny.vit(intermediate_size=48), tmp_path / "wider")
    _refused(base, wider, "expert 'cats'", "another shape", "mlp.fc1.weight is (48, 16)", (32, 16))


def test_a_tensor_that_contradicts_its_own_configuration(base, expert):
    tiny.edit_weights(expert, lambda t: t | {f"{FC1[0]}.bias": torch.ones(7)})
    _refused(base, expert, "expert 'cats'", "another shape", f"{FC1[1]}.bias", "(7,)", "(32,)")


def test_another_vocabulary_size(tmp_path):
    from transformers import BertModel

    base, expert = (
        tiny.save(tiny.build(BertModel, tiny.bert_config(vocab_size=n)), tmp_path / str(n))
        for n in (18, 20)
    )
    _refused(base, expert, "expert 'cats'", "another vocabulary size", "20", "18")


@pytest.fixture
def texts(tmp_path):
    from transformers import BertModel

    for name in ("base", "expert"):
        tiny.save(tiny.build(BertModel, tiny.bert_config()), tmp_path / name)
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base", tmp_path / "expert"


def test_another_vocabulary_of_the_same_size(texts):
    base, expert = texts
    swapped = ["[PAD]", "[UNK]", "z", "b", "a", *tiny.WORDS[5:]]
    tiny.tokenizer(swapped).save_pretrained(expert)
    _refused(base, expert, "expert 'cats'", "another vocabulary", "3 token(s)", "'a', 'c', 'z'")


def test_the_same_vocabulary_in_another_file_is_fine(texts):
    base, expert = texts
    shuffled = tiny.tokenizer()
    shuffled.add_special_tokens({"cls_token": "a"})
    shuffled.save_pretrained(expert)
    assert (base / "tokenizer.json").read_bytes() != (expert / "tokenizer.json").read_bytes()
    ModelPool(base, {"cats": expert}).load()


def test_an_expert_without_tokenizer_is_fine(texts):
    base, expert = texts
    ModelPool(base, {"cats": expert}).load()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("role", ["base", "expert"])
def test_weights_that_are_not_numbers(base, expert, role, value):
    def spoil(tensors):
        tensors[f"{QUERY[0]}.bias"][3] = value
        return tensors

    tiny.edit_weights({"base": base, "expert": expert}[role], spoil)
    who = {"base": "base", "expert": "expert 'cats'"}[role]
    _refused(base, expert, who, f"{QUERY[1]}.bias", "1 NaN or infinite value")


# ------------------------------------------------------------------- files that cannot be used


def test_pickled_weights_are_refused_unless_allowed(base, expert):
    from safetensors.torch import load_file

    torch.save(load_file(expert / "model.safetensors"), expert / "pytorch_model.bin")
    (expert / "model.safetensors").unlink()
    _refused(base, expert, "expert 'cats'", "pickled", "pytorch_model.bin", "allow_pickle=True")
    loaded = ModelPool(base, {"cats": expert}, allow_pickle=True).load()
    found = loaded.vectors.expert(0)
    entry = next(e for e in loaded.layout.entries if e.name == "layers.0.mlp.fc1.weight")
    expected = tiny.vit(1).vit.layers[0].mlp.fc1.weight
    assert torch.equal(found[entry.slice].view(entry.shape), expected)


def test_a_pickle_beside_safetensors_is_never_read(base, expert):
    (expert / "pytorch_model.bin").write_bytes(b"not even a pickle")
    ModelPool(base, {"cats": expert}, allow_pickle=True).load()


def test_a_pickle_that_runs_code_is_not_opened(base, expert, tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (expert / "model.safetensors").unlink()
    (expert / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    _refused(base, expert, "pickled")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("keep", [0, 4, 200, -10])
def test_truncated_safetensors(base, expert, keep):
    file = expert / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    _refused(base, expert, "expert 'cats'", "model.safetensors", "damaged")


def test_garbage_instead_of_safetensors(base, expert):
    (expert / "model.safetensors").write_bytes(b"<!DOCTYPE html>" * 40)
    _refused(base, expert, "expert 'cats'", "model.safetensors", "damaged")


@pytest.fixture
def shards(tmp_path):
    tiny.vit(1).save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    return tmp_path / "shards"


def test_a_missing_shard(base, shards):
    lost = sorted(shards.glob("*.safetensors"))[1]
    lost.unlink()
    _refused(base, shards, "expert 'cats'", lost.name, "missing")


def test_a_truncated_shard(base, shards):
    cut = sorted(shards.glob("*.safetensors"))[1]
    cut.write_bytes(cut.read_bytes()[:-10])
    _refused(base, shards, "expert 'cats'", cut.name, "damaged")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index_of_shards(base, shards, text):
    (shards / "model.safetensors.index.json").write_text(text)
    _refused(base, shards, "expert 'cats'", "model.safetensors.index.json")


@pytest.mark.parametrize("role", ["base", "expert"])
def test_no_configuration(base, expert, role):
    folder = {"base": base, "expert": expert}[role]
    (folder / "config.json").unlink()
    _refused(base, expert, folder, "no config.json")


@pytest.mark.parametrize("text", ["{", '{"model_type": "vitt"}', "{}"])
@pytest.mark.parametrize("role", ["base", "expert"])
def test_a_configuration_that_cannot_be_read(base, expert, role, text):
    folder = {"base": base, "expert": expert}[role]
    (folder / "config.json").write_text(text)
    _refused(base, expert, folder / "config.json", "cannot be used")


def test_no_weights(base, expert):
    (expert / "model.safetensors").unlink()
    _refused(base, expert, "expert 'cats'", expert, "no *.safetensors")


def test_an_empty_folder(base, tmp_path):
    (tmp_path / "empty").mkdir()
    _refused(base, tmp_path / "empty", "expert 'cats'", "no config.json")


def test_an_adapter(base, tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    _refused(base, tmp_path / "lora", "expert 'cats'", "no adapter_model.safetensors")
    with pytest.raises(PoolError, match=r"base: .* holds a LoRA adapter, not a full model"):
        ModelPool(tmp_path / "lora", {"cats": base}).load()


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "a/b/c", "what is this"])
def test_neither_a_folder_nor_a_hub_id(base, source):
    _refused(base, source, "expert 'cats'", source, "is not a folder", "hub id")


def test_a_file_instead_of_a_folder(base, expert):
    _refused(base, expert / "model.safetensors", "expert 'cats'", "is not a folder")


@pytest.mark.parametrize("source", ["nobody/nothing", "nobody/nothing@v1", "vitt"])
def test_an_unknown_hub_id_without_network(base, source):
    _refused(base, source, "expert 'cats'", source, "could not be fetched", "local folder")
    _refused(source, base, "base", source, "could not be fetched")


# ---------------------------------------------------------------------------- bad arguments


def test_no_experts(base):
    with pytest.raises(ConfigurationError, match="at least one expert"):
        ModelPool(base, {})


@pytest.mark.parametrize("name", ["base", "", "my expert", "a/b", "a:b", "a,b"])
def test_names_that_would_confuse(base, name):
    with pytest.raises(ConfigurationError, match="expert name") as caught:
        ModelPool(base, {name: base})
    assert repr(name) in str(caught.value)


def test_heads_that_mean_nothing(base, expert):
    _refused(base, expert, "heads='classifier'", "'auto'", "'none'", "patterns",
             error=ConfigurationError, heads="classifier")  # fmt: skip


def test_heads_that_leave_nothing(base, expert):
    _refused(base, expert, "leaves nothing to merge", error=ConfigurationError, heads=["*"])


def test_heads_that_match_nothing_leave_mismatches_visible():
    _refused(tiny.net(), tiny.net(1, classes=5), "head.weight is (5, 8)", heads=["classifier.*"])


# ------------------------------------------------------------------------------------- the hub


def _hub_errors():
    from huggingface_hub import errors

    def answer(code):
        return SimpleNamespace(status_code=code, headers={}, request=None)

    return {
        "gated": errors.GatedRepoError("403", response=answer(403)),
        "missing": errors.RepositoryNotFoundError("404", response=answer(404)),
        "revision": errors.RevisionNotFoundError("404", response=answer(404)),
        "offline": errors.LocalEntryNotFoundError("no cached snapshot"),
        "disk": OSError(28, "No space left on device"),
    }


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("gated", ["'owner/name' is gated", "ask for access", "hf auth login"]),
        ("missing", ["no hub repository is called 'owner/name'", "check the spelling"]),
        ("revision", ["'owner/name' has no revision 'v2'"]),
        ("offline", ["no network, or offline mode", "not in the cache", "local folder"]),
        ("disk", ["'owner/name' could not be fetched", "the disk is full", "HF_HOME"]),
    ],
)
def test_what_the_hub_answers_becomes_what_to_do(monkeypatch, what, words):
    import huggingface_hub

    def fail(*_, **__):
        error = _hub_errors()[what]
        if what == "disk":  # wrapped, as download threads do
            raise OSError("download failed") from error
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(PoolError) as caught:
        ModelPool("owner/name@v2", {"a": "owner/name@v2"}).load()
    for word in ["base: ", *words]:
        assert word in str(caught.value)
