"""Tiny models and data for the tests: real architectures, random weights, made in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from moofusion.problems import MergeProblem
from moofusion.tasks import TensorClassification
from moofusion.weights import ModelPool

WORDS = ["[PAD]", "[UNK]", *"abcdefghijklmnop"]
SIZES = {"train": 60, "search": 48, "test": 36}
_TEXT = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}


def build(model_class, config, seed=0):
    """A model of random weights; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model_class(config).eval()


def drift(model, seed, scale=0.1, only=""):
    """Add noise to every floating tensor of the model, in place: a stand-in for fine-tuning."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and only in name:
                tensor.add_(scale * torch.randn(tensor.shape, generator=generator))
    return model


def vit_config(labels=3, **changes):
    from transformers import ViTConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "image_size": 8, "patch_size": 4, "num_channels": 1}
    return ViTConfig(**(sizes | {"num_labels": labels} | changes))


def vit(seed=0, labels=3, **changes):
    from transformers import ViTForImageClassification

    return build(ViTForImageClassification, vit_config(labels, **changes), seed)


def bert_config(labels=2, **changes):
    from transformers import BertConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 24}
    return BertConfig(**(_TEXT | sizes | {"num_labels": labels} | changes))


def gpt2_config(labels=2, **changes):
    from transformers import GPT2Config

    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24}
    return GPT2Config(**(_TEXT | sizes | {"num_labels": labels} | changes))


def llama_config(labels=2, **changes):
    from transformers import LlamaConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "intermediate_size": 32, "max_position_embeddings": 24}
    return LlamaConfig(**(_TEXT | sizes | {"num_labels": labels} | changes))


def tokenizer(words=WORDS):
    """One token per word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")


def sentences(count, seed, longest=12):
    """Random texts of very different lengths."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[2:], rng.integers(1, longest))) for _ in range(count)]


def save(model, folder):
    model.save_pretrained(folder)
    return Path(folder)


def edit_config(folder, **changes):
    """Change values of a saved config.json."""
    file = Path(folder) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(folder, change):
    """Rewrite a saved model.safetensors with ``change(tensors)``."""
    from safetensors.torch import load_file, save_file

    file = Path(folder) / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


# --------------------------------------------------------------- a plain module with everything


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attn = nn.Linear(width, width)
        self.mlp = nn.Linear(width, width)

    def forward(self, x):
        return x + torch.tanh(self.mlp(torch.tanh(self.attn(self.norm(x)))))


class Net(nn.Module):
    """A classifier of vectors with the parts of a transformer: stem, blocks, head."""

    def __init__(self, inputs=4, width=8, depth=3, classes=3):
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def net(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(**options).eval()


def net_pool(experts=("a", "b", "c")):
    """Experts that are random walks away from one base."""
    walks = {name: drift(net(), 10 + i, 0.5) for i, name in enumerate(experts)}
    return ModelPool(net(), walks)


def net_tasks(pool, names=None, **options):
    """A task for every expert, labelled by that expert with some noise, in three splits."""
    return [_net_task(pool, name, **options) for name in names or pool.names]


def _net_task(pool, name, **options):
    generator = torch.Generator().manual_seed(100 + pool.names.index(name))
    data = {}
    for split, size in SIZES.items():
        x = torch.randn(size, 4, generator=generator)
        with torch.no_grad():
            y = pool.experts[name](x).argmax(dim=1)
        flip = torch.rand(size, generator=generator) < 0.1
        data[split] = (x, torch.where(flip, (y + 1) % 3, y))
    return TensorClassification(name, data, classes=3, **options)


def net_problem(experts=("a", "b", "c"), tasks=None, objective="accuracy", **options):
    """A MergeProblem that takes a millisecond per evaluation."""
    pool = net_pool(experts)
    return MergeProblem(pool, net_tasks(pool, tasks, objective=objective), **options)
