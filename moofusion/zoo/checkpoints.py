"""Writes and reads the zoo's models as ordinary checkpoint folders, in half precision."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from moofusion.weights.sources import quiet_transformers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, ViTForImageClassification

#: Read by ``AutoImageProcessor`` with or without torchvision; the same scaling as
#: `moofusion.zoo.training.pixel_values`.
_PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5],
    "image_std": [0.5],
    "size": {"height": 28, "width": 28},
}


def save_checkpoint(model: PreTrainedModel, folder: Path, beside: Callable[[Path], object]) -> None:
    """Write `model` rounded to float16; `folder` appears only when it is complete.

    Args:
        model: any model of transformers.
        folder: where.
        beside: writes what belongs beside the weights (`save_preprocessor`, a tokenizer's
            ``save_pretrained``) into the folder it is given.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        copy.deepcopy(model).to(torch.float16).save_pretrained(part)
    beside(part)
    for file in part.iterdir():  # safetensors are written for the owner alone
        file.chmod(0o644)
    part.rename(folder)


def save_preprocessor(folder: Path) -> None:
    """Write what ``AutoImageProcessor`` reads."""
    text = json.dumps(_PREPROCESSOR, indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")


def load_checkpoint(folder: Path) -> ViTForImageClassification:
    """Read a model written by `save_checkpoint`, computing in float32."""
    from transformers import ViTForImageClassification

    model: ViTForImageClassification = ViTForImageClassification.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    return model.eval()


def controls(
    base: Mapping[str, Tensor], experts: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """The bodies every problem is compared with: base, experts, average, task arithmetic 0.3."""
    merged = {}
    for name, weight in (("average", 1 / len(experts)), ("task arithmetic 0.3", 0.3)):
        merged[name] = {
            key: tensor + weight * sum(expert[key] - tensor for expert in experts.values())
            for key, tensor in base.items()
        }
    return {"base": dict(base), **{name: dict(body) for name, body in experts.items()}, **merged}


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
