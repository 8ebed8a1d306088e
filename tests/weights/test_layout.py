"""The flat layout: groups are contiguous, blocks and roles follow the architecture."""

import numpy as np
import pytest
import tiny
from torch import nn

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.weights.layout import GRANULARITIES, ROLES, STATIC, ParameterLayout


def _vision(**changes):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    return sizes | {"intermediate_size": 16, "image_size": 8, "patch_size": 4} | changes


def _clip():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**_vision()))


def _swin():
    from transformers import SwinConfig, SwinModel

    sizes = {"image_size": 16, "patch_size": 2, "embed_dim": 4, "window_size": 2}
    return SwinModel(SwinConfig(**sizes, depths=[1, 2], num_heads=[1, 2], num_channels=1))


def _convnext():
    from transformers import ConvNextConfig, ConvNextModel

    sizes = {"num_channels": 1, "patch_size": 2, "image_size": 16, "num_stages": 2}
    return ConvNextModel(ConvNextConfig(**sizes, hidden_sizes=[4, 8], depths=[1, 2]))


def _t5():
    from transformers import T5Config, T5Model

    return T5Model(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2))


def _transformers(name, config):
    import transformers

    return lambda: tiny.build(getattr(transformers, name), config())


class _WithBuffers(nn.Module):
    """Batch norms, whose running statistics a model lists after all of its parameters."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in "ab")


MODELS = {
    "vit": tiny.vit,
    "bert": _transformers("BertModel", tiny.bert_config),
    "gpt2": _transformers("GPT2LMHeadModel", tiny.gpt2_config),
    "llama": _transformers("LlamaForCausalLM", tiny.llama_config),
    "clip": _clip,
    "swin": _swin,
    "convnext": _convnext,
    "t5": _t5,
    "buffers": _WithBuffers,
    "net": tiny.net,
    "sequential": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
}
BLOCKS = {
    "vit": ("stem", "vit.layers.0", "vit.layers.1", "final"),
    "bert": ("stem", "encoder.layer.0", "encoder.layer.1", "final"),
    "gpt2": ("stem", "transformer.h.0", "transformer.h.1", "final"),
    "llama": ("stem", "model.layers.0", "model.layers.1", "final"),
    "clip": ("stem", "encoder.layers.0", "encoder.layers.1", "final"),
    "swin": ("stem", "encoder.layers.0", "encoder.layers.1", "final"),
    "convnext": ("stem", "encoder.stages.0", "encoder.stages.1", "final"),
    "t5": (
        *("stem", "encoder.block.0", "encoder.block.1"),
        *("decoder.block.0", "decoder.block.1", "final"),
    ),
    "buffers": ("stem", "layers.0", "layers.1"),
    "net": ("stem", "layers.0", "layers.1", "layers.2", "final"),
    "sequential": ("0", "2"),
}
#: A tensor of every kind, and its role.
TENSORS = {
    "vit": {
        "vit.embeddings.cls_token": "embedding",
        "vit.embeddings.patch_embeddings.projection.weight": "embedding",
        "vit.layers.1.attention.q_proj.weight": "attention",
        "vit.layers.1.attention.o_proj.bias": "attention",
        "vit.layers.0.mlp.fc1.weight": "mlp",
        "vit.layers.0.layernorm_before.weight": "norm",
        "vit.layernorm.bias": "norm",
        "classifier.weight": "other",
    },
    "bert": {
        "embeddings.word_embeddings.weight": "embedding",
        "embeddings.LayerNorm.weight": "norm",
        "encoder.layer.0.attention.self.query.weight": "attention",
        "encoder.layer.0.attention.output.dense.weight": "attention",
        "encoder.layer.0.attention.output.LayerNorm.weight": "norm",
        "encoder.layer.0.intermediate.dense.weight": "mlp",
        "encoder.layer.0.output.dense.weight": "mlp",
        "pooler.dense.weight": "other",
    },
    "gpt2": {
        "transformer.wte.weight": "embedding",
        "transformer.wpe.weight": "embedding",
        "transformer.h.0.attn.c_proj.weight": "attention",
        "transformer.h.0.mlp.c_proj.weight": "mlp",
        "transformer.h.0.ln_1.weight": "norm",
        "transformer.ln_f.weight": "norm",
    },
    "llama": {
        "model.embed_tokens.weight": "embedding",
        "model.layers.0.self_attn.k_proj.weight": "attention",
        "model.layers.0.mlp.gate_proj.weight": "mlp",
        "model.layers.0.post_attention_layernorm.weight": "norm",
        "lm_head.weight": "other",
    },
    "clip": {
        "embeddings.class_embedding": "embedding",
        "pre_layrnorm.weight": "norm",
        "encoder.layers.1.self_attn.out_proj.weight": "attention",
        "encoder.layers.1.mlp.fc2.weight": "mlp",
        "encoder.layers.1.layer_norm2.weight": "norm",
    },
    "swin": {
        "encoder.layers.1.blocks.1.attention.k_proj.weight": "attention",
        "encoder.layers.0.blocks.0.mlp.fc2.bias": "mlp",
        "encoder.layers.0.downsample.norm.weight": "norm",
    },
    "t5": {
        "encoder.block.0.layer.0.SelfAttention.q.weight": "attention",
        "decoder.block.1.layer.2.DenseReluDense.wi.weight": "mlp",
        "decoder.final_layer_norm.weight": "norm",
    },
}


@pytest.fixture(params=MODELS)
def named(request):
    model = MODELS[request.param]()
    return request.param, model, ParameterLayout(_shapes(model))


def _shapes(model):
    """Parameters, then floating buffers, as a model lists them."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {k: tuple(v.shape) for k, v in tensors.items() if v.is_floating_point()}


def test_every_tensor_has_a_place_of_its_own(named):
    _, model, layout = named
    assert {e.name: e.shape for e in layout.entries} == _shapes(model)
    assert all(e.size == np.prod(e.shape) for e in layout.entries)
    taken = np.zeros(layout.size, int)
    for entry in layout.entries:
        taken[entry.slice] += 1
    assert taken.max() == 1
    assert taken.sum() == layout.n_parameters == sum(e.size for e in layout.entries)


def test_blocks_are_read_off_the_names_in_order(named):
    name, _, layout = named
    assert layout.blocks == BLOCKS[name]


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_groups_are_one_contiguous_run_each_and_cover_everything(named, granularity):
    _, _, layout = named
    partition = layout.partition(granularity)
    starts, stops, groups = zip(*partition.segments, strict=True)
    assert (starts[0], stops[-1]) == (0, layout.size)
    assert starts[1:] == stops[:-1]
    assert groups == tuple(range(partition.n_groups))
    assert partition.sizes.sum() == layout.n_parameters
    assert not partition.has_static
    for entry, group in zip(layout.entries, partition.groups, strict=True):
        start, stop, _ = partition.segments[group]
        assert start <= entry.offset < entry.offset + entry.size <= stop


def test_groups_have_the_names_of_what_they_hold(named):
    _, _, layout = named
    assert layout.partition("model").names == ("model",)
    assert layout.partition("block").names == layout.blocks
    assert layout.partition("tensor").names == tuple(e.name for e in layout.entries)
    assert set(layout.partition("module").names) == {e.module for e in layout.entries}


@pytest.mark.parametrize("name", TENSORS)
def test_roles_are_read_off_the_names(name):
    layout = ParameterLayout(_shapes(MODELS[name]()))
    roles = {e.name: e.role for e in layout.entries}
    assert {tensor: roles[tensor] for tensor in TENSORS[name]} == TENSORS[name]


@pytest.mark.parametrize("role", ["attention", "mlp", "norm"])
def test_a_role_within_a_block_is_contiguous(role):
    layout = ParameterLayout(_shapes(tiny.vit()))
    partition = layout.partition("block", select=role)
    segments = [s for s in partition.segments if s[2] != STATIC]
    assert len(segments) == partition.n_groups
    chosen = {e.name for e, g in zip(layout.entries, partition.groups, strict=True) if g != STATIC}
    assert chosen == {e.name for e in layout.entries if e.role == role}
    assert partition.sizes.sum() == sum(e.size for e in layout.entries if e.role == role)


def test_selection_leaves_the_rest_static_and_still_covers_the_buffer():
    layout = ParameterLayout(_shapes(tiny.net()))
    partition = layout.partition("block", select="mlp")
    assert partition.has_static
    assert partition.names == ("layers.0", "layers.1", "layers.2")
    starts, stops, groups = zip(*partition.segments, strict=True)
    assert (starts[0], stops[-1]) == (0, layout.size)
    assert starts[1:] == stops[:-1]
    assert set(groups) == {STATIC, 0, 1, 2}


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("mlp", {"mlp"}),
        ("mlp+attention", {"mlp", "attention"}),
        (["mlp", "norm"], {"mlp", "norm"}),
        (["layers.*.attn.*", "mlp"], {"mlp", "attention"}),
    ],
)
def test_roles_combine(select, expected):
    layout = ParameterLayout(_shapes(tiny.net()))
    groups = layout.partition("tensor", select=select).groups
    chosen = {e.role for e, g in zip(layout.entries, groups, strict=True) if g != STATIC}
    assert chosen == expected


def test_patterns_select_tensors_by_name():
    layout = ParameterLayout(_shapes(tiny.net()))
    names = layout.partition("tensor", select="layers.[0-1].*.weight").names
    assert set(names) == {
        f"layers.{i}.{part}.weight" for i in (0, 1) for part in ("norm", "attn", "mlp")
    }


@pytest.mark.parametrize("select", ["conv", "layer.*", ["mlp", "nothing.*"]])
def test_a_selection_of_nothing_is_refused(select):
    layout = ParameterLayout(_shapes(tiny.net()))
    wrong = select if isinstance(select, str) else select[-1]
    with pytest.raises(ConfigurationError, match="matches no tensor") as caught:
        layout.partition("block", select=select)
    assert repr(wrong) in str(caught.value)
    assert "attention" in str(caught.value)


def test_an_unknown_granularity_is_refused():
    layout = ParameterLayout({"w": (2,)})
    with pytest.raises(UnknownNameError, match="did you mean 'block'"):
        layout.partition("blocks")


def test_no_tensors_are_refused():
    with pytest.raises(ConfigurationError, match="at least one tensor"):
        ParameterLayout({})


def test_depth_runs_from_the_first_block_to_the_last():
    layout = ParameterLayout(_shapes(tiny.vit(num_hidden_layers=4)))
    partition = layout.partition("block")
    assert partition.depth == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])
    modules = layout.partition("module")
    at = dict(zip(modules.names, modules.depth, strict=True))
    assert at["vit.layers.2.mlp.fc1"] == pytest.approx(2 / 3)
    assert at["vit.embeddings.patch_embeddings.projection"] == 0


def test_tensors_start_where_an_allocator_would_put_them():
    layout = ParameterLayout({"a": (3,), "b": (17,), "c": (1,)})
    assert [e.offset % 16 for e in layout.entries] == [0, 0, 0]


def test_a_tensor_without_a_module_is_its_own():
    layout = ParameterLayout({"scale": (2,), "token": (2,), "layers.0.w": (2,), "layers.1.w": (2,)})
    assert layout.partition("module").names == ("scale", "token", "layers.0", "layers.1")


def test_running_statistics_stay_beside_their_norm():
    layout = ParameterLayout(_shapes(_WithBuffers()))
    assert [e.name for e in layout.entries if e.module == "bn1"] == [
        *("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var")
    ]
    assert {e.block for e in layout.entries if e.module == "bn1"} == {"stem"}


def test_roles_known_to_users_are_those_used(named):
    _, _, layout = named
    assert {e.role for e in layout.entries} <= set(ROLES)
