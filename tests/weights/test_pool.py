"""Model pools: which tensors are merged, which stay with the tasks, and what is read."""

import pytest
import tiny
import torch
from torch import nn

from moofusion.weights import ModelPool


def _names(loaded):
    return {entry.name for entry in loaded.layout.entries}


def _tensors(loaded, flat):
    return {e.name: flat[e.slice].view(e.shape) for e in loaded.layout.entries}


def _logits(model, *args, **inputs):
    with torch.no_grad():
        return model(*args, **inputs).logits


def _pixels(count=3, channels=1):
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(0))


def test_folders_are_read_exactly(vit_folders, loaded_vits):
    from transformers import ViTForImageClassification, ViTModel

    base = dict(ViTModel.from_pretrained(vit_folders.base).named_parameters())
    for name, tensor in _tensors(loaded_vits, loaded_vits.vectors.base).items():
        assert torch.equal(tensor, base[name])
    for k, (name, folder) in enumerate(vit_folders.experts.items()):
        assert loaded_vits.vectors.names[k] == name
        body = dict(ViTForImageClassification.from_pretrained(folder).vit.named_parameters())
        found = _tensors(loaded_vits, loaded_vits.vectors.expert(k))
        assert all(torch.equal(found[key], body[key]) for key in body)


def test_folders_are_remembered(vit_folders, loaded_vits):
    assert loaded_vits.folders == {"base": vit_folders.base, **vit_folders.experts}


def test_modules_work_like_folders(vit_folders, loaded_vits):
    from transformers import AutoModelForImageClassification, ViTModel

    experts = {
        name: AutoModelForImageClassification.from_pretrained(folder)
        for name, folder in vit_folders.experts.items()
    }
    loaded = ModelPool(ViTModel.from_pretrained(vit_folders.base), experts).load()
    assert loaded.vectors.fingerprint() == loaded_vits.vectors.fingerprint()


def test_classification_heads_stay_outside(vit_folders, loaded_vits):
    from transformers import ViTForImageClassification

    assert not any("classifier" in name for name in _names(loaded_vits))
    for name, folder in vit_folders.experts.items():
        expert = ViTForImageClassification.from_pretrained(folder).eval()
        loaded_vits.model.weights.copy_(
            loaded_vits.vectors.expert(loaded_vits.vectors.names.index(name))
        )
        found = _logits(loaded_vits.model.modules[name], pixel_values=_pixels())
        assert torch.equal(found, _logits(expert, pixel_values=_pixels()))


def test_a_headless_base_with_headed_experts_loses_only_its_pooler(loaded_vits, vit_folders):
    from transformers import ViTModel

    body = {k for k, _ in ViTModel.from_pretrained(vit_folders.base).named_parameters()}
    assert _names(loaded_vits) == {name for name in body if "pooler" not in name}


def test_a_headed_base_keeps_its_head_outside():
    loaded = ModelPool(tiny.vit(labels=5), {"a": tiny.vit(1, labels=3)}).load()
    assert not any("classifier" in name for name in _names(loaded))
    assert loaded.model.modules["base"].classifier.weight.shape[0] == 5
    assert loaded.model.modules["a"].classifier.weight.shape[0] == 3


def test_a_body_under_another_name_is_found():
    from transformers import CLIPConfig, CLIPForImageClassification

    vision = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"intermediate_size": 16, "image_size": 8, "patch_size": 4}
    base, expert = (
        tiny.build(CLIPForImageClassification, CLIPConfig(vision_config=vision, num_labels=n), n)
        for n in (2, 4)
    )
    loaded = ModelPool(base, {"a": expert}).load()
    assert not any("classifier" in name for name in _names(loaded))
    loaded.model.weights.copy_(loaded.vectors.expert(0))
    pixels = _pixels(channels=3)
    found = _logits(loaded.model.modules["a"], pixel_values=pixels)
    assert torch.equal(found, _logits(expert, pixel_values=pixels))


@pytest.mark.parametrize("as_folders", [True, False])
def test_a_language_model_is_the_base_of_text_classifiers(as_folders, tmp_path):
    from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

    base = tiny.build(GPT2LMHeadModel, tiny.gpt2_config())
    expert = tiny.build(GPT2ForSequenceClassification, tiny.gpt2_config(labels=3), 1)
    sources = [base, expert]
    if as_folders:
        sources = [tiny.save(m, tmp_path / str(i)) for i, m in enumerate(sources)]
    loaded = ModelPool(sources[0], {"a": sources[1]}).load()
    assert _names(loaded) == {k for k, _ in base.transformer.named_parameters()}
    loaded.model.weights.copy_(loaded.vectors.expert(0))
    ids = torch.arange(2, 10)[None]
    assert torch.equal(_logits(loaded.model.modules["a"], ids), _logits(expert, ids))
    loaded.model.weights.copy_(loaded.vectors.base)
    assert torch.equal(_logits(loaded.model.modules["base"], ids), _logits(base, ids))


def test_language_models_are_merged_whole():
    from transformers import LlamaForCausalLM

    base, expert = (tiny.build(LlamaForCausalLM, tiny.llama_config(), s) for s in (0, 1))
    loaded = ModelPool(base, {"a": expert}).load()
    assert _names(loaded) == {k.removeprefix("model.") for k, _ in base.named_parameters()}
    assert "lm_head.weight" in _names(loaded)
    loaded.model.weights.copy_(loaded.vectors.expert(0))
    ids = torch.arange(2, 10)[None]
    assert torch.equal(_logits(loaded.model.modules["base"], ids), _logits(expert, ids))


@pytest.mark.parametrize("base", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
def test_berts_of_every_kind_are_bases_of_text_classifiers(base, tmp_path):
    """The pooler is merged where the base has one, else it belongs to the task like the head."""
    import transformers

    model = tiny.build(getattr(transformers, base), tiny.bert_config())
    folder = tiny.save(model, tmp_path / "base")
    if base == "BertForPreTraining":
        # As bert-base-uncased: more in the file than the class in its configuration uses.
        tiny.edit_config(folder, architectures=["BertForMaskedLM"])
    expert = tiny.build(transformers.BertForSequenceClassification, tiny.bert_config(labels=3), 1)
    loaded = ModelPool(folder, {"a": tiny.save(expert, tmp_path / "a")}).load()
    assert any("pooler" in name for name in _names(loaded)) == (base == "BertModel")
    loaded.model.weights.copy_(loaded.vectors.expert(0))
    found = loaded.model.modules["a"].state_dict()
    assert all(torch.equal(found[key], value) for key, value in expert.state_dict().items())


def test_a_pooler_that_the_base_checkpoint_lacks_is_not_made_up(tmp_path):
    """Loading it at random would change the merge from run to run."""
    from transformers import BertForSequenceClassification, BertModel

    folder = tiny.save(tiny.build(BertModel, tiny.bert_config()), tmp_path / "base")
    tiny.edit_weights(folder, lambda t: {k: v for k, v in t.items() if "pooler" not in k})
    expert = tiny.build(BertForSequenceClassification, tiny.bert_config(), 1)
    experts = {"a": tiny.save(expert, tmp_path / "a")}
    first, second = (ModelPool(folder, experts).load() for _ in "ab")
    assert not any("pooler" in name for name in _names(first))
    assert first.vectors.fingerprint() == second.vectors.fingerprint()


def test_heads_none_merges_everything():
    loaded = ModelPool(tiny.vit(), {"a": tiny.vit(1)}, heads="none").load()
    assert "classifier.weight" in _names(loaded)


def test_heads_can_be_named_by_pattern():
    loaded = ModelPool(tiny.net(), {"a": tiny.net(1)}, heads=["head.*", "norm.*"]).load()
    assert _names(loaded) == {
        k for k, _ in tiny.net().named_parameters() if not k.startswith(("head.", "norm."))
    }
    modules = loaded.model.modules
    assert torch.equal(modules["a"].head.weight, tiny.net(1).head.weight)


def test_experts_may_have_other_heads_when_those_stay_outside():
    pool = ModelPool(tiny.net(), {"a": tiny.net(1, classes=7)}, heads=["head.*"])
    assert pool.load().model.modules["a"](torch.zeros(1, 4)).shape == (1, 7)


def test_plain_modules_are_merged_whole(vit_folders):
    loaded = ModelPool(tiny.net(), {"a": tiny.net(1)}).load()
    assert _names(loaded) == {k for k, _ in tiny.net().named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("as_folders", [True, False])
def test_other_precisions_are_read_as_single(dtype, as_folders, tmp_path):
    base, expert = tiny.vit().to(dtype), tiny.vit(1).to(dtype)
    sources = [base, expert]
    if as_folders:
        sources = [tiny.save(m, tmp_path / str(i)) for i, m in enumerate(sources)]
    loaded = ModelPool(sources[0], {"a": sources[1]}).load()
    assert loaded.vectors.base.dtype == torch.float32
    found = _tensors(loaded, loaded.vectors.expert(0))
    assert all(torch.equal(found[k], v.float()) for k, v in expert.vit.named_parameters())
    # The head was widened as well, so the whole model runs.
    assert _logits(loaded.model.modules["a"], pixel_values=_pixels()).dtype == torch.float32
    assert next(base.parameters()).dtype == dtype


def test_sharded_checkpoints_are_read(tmp_path):
    model = tiny.vit(1)
    model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    loaded = ModelPool(tiny.vit(), {"a": tmp_path / "shards"}).load()
    found = _tensors(loaded, loaded.vectors.expert(0))
    assert all(torch.equal(found[k], v) for k, v in model.vit.named_parameters())


def test_the_base_is_in_the_modules_at_first(vit_folders):
    from transformers import ViTModel

    loaded = ModelPool(vit_folders.base, vit_folders.experts).load()
    base = ViTModel.from_pretrained(vit_folders.base).eval()
    with torch.no_grad():
        found = loaded.model.modules["base"](pixel_values=_pixels()).last_hidden_state
        assert torch.equal(found, base(pixel_values=_pixels()).last_hidden_state)


def test_pools_describe_themselves(vit_pool, vit_folders):
    assert vit_pool.names == ("dots", "bars", "rings")
    assert str(vit_folders.base) in repr(vit_pool)
    assert "Linear" in repr(ModelPool(nn.Linear(1, 1), {"a": nn.Linear(1, 1)}))
