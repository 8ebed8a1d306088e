"""LoRA adapters for the tests: made by peft on tiny models, with random factors."""

from __future__ import annotations

import pytest
import tiny
import torch

peft = pytest.importorskip("peft")
WORDS = torch.arange(2, 12).view(2, 5)


def base_model(kind):
    from transformers import BertForSequenceClassification, GPT2LMHeadModel

    if kind == "gpt2":
        return tiny.build(GPT2LMHeadModel, tiny.gpt2_config())
    return tiny.build(BertForSequenceClassification, tiny.bert_config())


def config(kind, **changes):
    options = {
        "gpt2": {
            "target_modules": ["c_attn", "c_fc", "wpe"],
            "task_type": "CAUSAL_LM",
            "fan_in_fan_out": True,
        },
        "bert": {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"},
    }[kind]
    return peft.LoraConfig(**(options | {"r": 2, "lora_alpha": 6} | changes))


def train(kind, folder, seed, scale=0.2, **changes):
    """An adapter with random factors, as training leaves it."""
    model = peft.get_peft_model(base_model(kind), config(kind, **changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                value.copy_(scale * torch.randn(value.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def outputs(model):
    with torch.no_grad():
        return model(input_ids=WORDS).logits


def merged_by_peft(kind, folder):
    model = peft.PeftModel.from_pretrained(base_model(kind), folder)
    return model.merge_and_unload().eval()
