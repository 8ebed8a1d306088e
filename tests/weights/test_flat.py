"""One flat buffer, many modules: writing weights changes them all at once."""

import pytest
import tiny
import torch
from torch import nn

from moofusion.weights import FlatModel, ModelPool, ParameterLayout

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def _flat(*modules):
    layout = ParameterLayout({k: tuple(v.shape) for k, v in modules[0].named_parameters()})
    names = {name: name for name in dict(modules[0].named_parameters())}
    named = {str(i): module for i, module in enumerate(modules)}
    return FlatModel(layout, torch.zeros(layout.size), named, lambda _: names)


def _write(flat, model):
    """Copy the weights of another model into the flat buffer."""
    tensors = dict(model.named_parameters())
    for entry in flat.layout.entries:
        flat.weights[entry.slice] = tensors[entry.name].detach().flatten()


def test_writing_the_weights_changes_every_module():
    flat = _flat(tiny.net(1), tiny.net(2))
    for seed in (3, 4):
        source = tiny.net(seed)
        _write(flat, source)
        assert torch.equal(flat.modules["0"](X), source(X))
        assert torch.equal(flat.modules["1"](X), source(X))


def test_modules_are_left_in_evaluation_mode_without_gradients():
    flat = _flat(tiny.net().train())
    assert not flat.modules["0"].training
    assert not flat.modules["0"](X).requires_grad


def test_gradients_arrive_in_one_flat_buffer():
    flat = _flat(tiny.net(1))
    _write(flat, tiny.net(5))
    twin = tiny.net(5)
    twin(X).square().sum().backward()
    gradient = flat.gradient_buffer(flat.layout.partition("block"))
    flat.modules["0"](X).square().sum().backward()
    for entry in flat.layout.entries:
        expected = twin.get_parameter(entry.name).grad
        assert torch.allclose(gradient[entry.slice].view(entry.shape), expected, atol=1e-6)
    flat.release_gradients()
    assert not flat.modules["0"](X).requires_grad


def test_static_parameters_take_no_gradient():
    flat = _flat(tiny.net(1))
    _write(flat, tiny.net(5))
    partition = flat.layout.partition("block", select="mlp")
    gradient = flat.gradient_buffer(partition)
    flat.modules["0"](X).square().sum().backward()
    for entry, group in zip(flat.layout.entries, partition.groups, strict=True):
        assert bool(gradient[entry.slice].any()) == (group != -1)


def test_a_gradient_buffer_starts_from_zero_each_time():
    flat = _flat(tiny.net(1))
    _write(flat, tiny.net(5))
    partition = flat.layout.partition("model")
    found = []
    for _ in range(2):
        gradient = flat.gradient_buffer(partition)
        flat.modules["0"](X).square().sum().backward()
        found.append(gradient.clone())
        flat.release_gradients()
    assert torch.equal(*found)


def test_a_tied_head_follows_the_embedding():
    from transformers import GPT2LMHeadModel

    base = tiny.build(GPT2LMHeadModel, tiny.gpt2_config())
    expert = tiny.drift(tiny.build(GPT2LMHeadModel, tiny.gpt2_config()), 1)
    loaded = ModelPool(base, {"a": expert}).load()
    assert "lm_head.weight" not in [e.name for e in loaded.layout.entries]
    merged = loaded.model.modules["base"]
    loaded.model.weights.copy_(loaded.vectors.expert(0))
    assert merged.lm_head.weight.data_ptr() == merged.transformer.wte.weight.data_ptr()
    ids = torch.arange(2, 10)[None]
    with torch.no_grad():
        assert torch.equal(merged(ids).logits, expert(ids).logits)


def test_floating_buffers_are_merged_and_others_come_from_the_module():
    def normed(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
            model(torch.randn(20, 4))
        return model.eval()

    base, expert = normed(0), normed(1)
    loaded = ModelPool(base, {"a": expert}).load()
    names = [e.name for e in loaded.layout.entries]
    assert "1.running_var" in names
    assert "1.num_batches_tracked" not in names
    loaded.model.weights.copy_(loaded.vectors.expert(0))
    assert torch.equal(loaded.model.modules["base"](X), expert(X))


def test_a_parameter_may_be_a_single_number():
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

    loaded = ModelPool(Scaled(1.0), {"a": Scaled(3.0)}).load()
    loaded.model.weights.copy_(loaded.vectors.expert(0))
    assert loaded.model.modules["base"].scale.item() == 3


def test_modules_that_keep_their_own_list_of_weights_follow():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 3)

        def forward(self, x):
            return self.lstm(x)[0]

    base, expert = Recurrent(), Recurrent()
    loaded = ModelPool(base, {"a": expert}).load()
    loaded.model.weights.copy_(loaded.vectors.expert(0))
    assert torch.equal(loaded.model.modules["base"](X), expert(X))


def test_the_users_own_modules_are_not_touched():
    base, expert = tiny.net(0).train(), tiny.drift(tiny.net(0), 1).requires_grad_(True)
    before = {k: v.clone() for k, v in base.state_dict().items()}
    loaded = ModelPool(base, {"a": expert}).load()
    loaded.model.weights.fill_(7.0)
    assert base.training
    assert all(p.requires_grad for p in expert.parameters())
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())


@pytest.mark.parametrize("name", ["base", "dots", "bars", "rings"])
def test_modules_of_a_pool_carry_their_own_head(loaded_vits, name):
    module = loaded_vits.model.modules[name]
    body = module.vit if name != "base" else module
    place = loaded_vits.model.weights.untyped_storage().data_ptr()
    inside = {p.untyped_storage().data_ptr() for p in body.parameters() if "pooler" not in str(p)}
    assert place in inside
    if name != "base":
        assert module.classifier.weight.untyped_storage().data_ptr() != place
