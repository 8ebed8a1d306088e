"""Tiny models and data for the tests: real architectures, random weights, made in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from moofusion.testing.standins import SIZES, drift
from moofusion.testing.standins import ToyNet as Net
from moofusion.testing.standins import toy_net as net
from moofusion.testing.standins import toy_pool as net_pool
from moofusion.testing.standins import toy_problem as net_problem
from moofusion.testing.standins import toy_tasks as net_tasks

__all__ = ["SIZES", "Net", "drift", "net", "net_pool", "net_problem", "net_tasks"]

WORDS = ["[PAD]", "[UNK]", *"abcdefghijklmnop"]
_TEXT = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}


def build(model_class, config, seed=0):
    """A model of random weights; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model_class(config).eval()


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
