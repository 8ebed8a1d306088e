"""Zero-shot classification: CLIP's text tower turns class names into the head."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from torch.nn.functional import normalize

from moofusion.errors import DataError, EvaluationWarning, PoolError, UnknownNameError
from moofusion.tasks.data import LabelledData
from moofusion.tasks.image import ImageClassification
from moofusion.weights.vectors import tensor_bytes

__all__ = ["Prompts", "ZeroShotClassification", "check_order", "zero_shot_head"]


@dataclass(frozen=True)
class Prompts:
    """What the text tower reads: every template, filled with every class name.

    Attributes:
        class_names: Names in label order.
        templates: Sentences with ``{}`` in the place of the name.

    Raises:
        DataError: No name, no template, or a template without a place for the name.

    Example:
        >>> Prompts(("cat", "dog"), ("a photo of a {}.",)).sentences(1)
        ['a photo of a dog.']
        >>> len(Prompts.shipped("dtd").class_names)
        47
    """

    class_names: tuple[str, ...]
    templates: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.class_names or not self.templates:
            raise DataError("prompts need at least one class name and one template")
        for template in self.templates:
            if "{}" not in template:
                raise DataError(f"template {template!r} has no place {{}} for the class name")

    @classmethod
    def shipped(cls, name: str) -> Prompts:
        """The published prompts of one of the eight data sets (``"sun397"``, ``"dtd"``, ...).

        Raises:
            UnknownNameError: There are none of that name.
        """
        known = _shipped()
        if name not in known:
            raise UnknownNameError(
                "prompts", name, known, hint="Or give class_names and templates of your own."
            )
        return cls(tuple(known[name]["class_names"]), tuple(known[name]["templates"]))

    def replaced(self, names: Sequence[str] | None, templates: Sequence[str] | None) -> Prompts:
        """The same with other names or templates, where they are given."""
        return replace(
            self,
            class_names=tuple(names or self.class_names),
            templates=tuple(templates or self.templates),
        )

    def sentences(self, label: int) -> list[str]:
        """What is read for the class of this label."""
        return [template.replace("{}", self.class_names[label]) for template in self.templates]


@cache
def _shipped() -> dict[str, dict[str, list[str]]]:
    text = Path(__file__).with_name("clip_prompts.json").read_text(encoding="utf-8")
    return {name: found for name, found in json.loads(text).items() if name[0] != "_"}


def check_order(task: str, classes: Sequence[str], names: Sequence[str]) -> None:
    """Check that prompts come in the label order of a data set.

    Names are compared without case, blanks and punctuation. A name that only the data set or only
    the prompts have (``"AnnualCrop"``, ``"annual crop land"``) tells nothing about the order.

    Args:
        task: Name of the task, for the messages.
        classes: The data set's own names, in label order.
        names: Class names of the prompts.

    Raises:
        DataError: Another number of classes, or a class stands at another place.

    Example:
        >>> check_order("pets", ["Dog", "Cat"], ["dog", "cat"])
        >>> check_order("pets", ["cat", "dog"], ["dog", "cat"])
        Traceback (most recent call last):
        moofusion.errors.DataError: task 'pets': the prompts are in another order than the labels...
    """
    if len(classes) != len(names):
        raise DataError(
            f"task {task!r}: the data set has {len(classes)} classes ({_some(classes)}), the "
            f"prompts have {len(names)} ({_some(names)}); give class_names for this data set"
        )
    data, prompts = [_plain(name) for name in classes], [_plain(name) for name in names]
    wrong = [i for i, name in enumerate(data) if prompts[i] != name and name in prompts]
    if wrong:
        first = wrong[0]
        raise DataError(
            f"task {task!r}: the prompts are in another order than the labels of the data set; "
            f"label {first} is {classes[first]!r} there and {names[first]!r} in the prompts "
            f"({len(wrong)} of {len(names)} classes differ); give class_names in label order"
        )
    if not any(a == b for a, b in zip(data, prompts, strict=True)):
        warnings.warn(
            f"task {task!r}: the data set calls its classes {_some(classes)}, the prompts "
            f"{_some(names)}; that both have the same order cannot be checked",
            EvaluationWarning,
            stacklevel=2,
        )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


class ZeroShotClassification(ImageClassification):
    """Classification of images by the cosine to the texts of the classes, as CLIP does it.

    The model that is measured is the vision tower. Projection, logit scale and the texts of the
    classes come from one CLIP model and are not merged: logits are ``exp(logit_scale)`` times the
    cosine of projected picture and class text [1]_.

    Args:
        name: Name of the task.
        data: Images and labels.
        clip: Folder of the CLIP model with text tower and tokenizer.
        prompts: Class names in label order, and templates.
        allow_pickle: Accept pickled weights of `clip`, which can run code when read.
        cache: Folder for finished heads; by default ``heads`` in the user's cache, or
            ``$MOOFUSION_HEADS``.
        **options: Passed to :class:`ImageClassification`; `processor` is by default `clip`'s.

    Raises:
        DataError: The prompts do not fit the data's classes in number or order.

    References:
        .. [1] Radford et al., Learning Transferable Visual Models From Natural Language
           Supervision, 2021, section 3.1.4 (ensembles of templates).

    Example:
        >>> import numpy as np
        >>> images = {"search": np.zeros((2, 8, 8, 3), np.uint8)}
        >>> data = LabelledData(images, {"search": np.array([0, 1])}, ("cat", "dog"))
        >>> prompts = Prompts(("cat", "dog"), ("a photo of a {}.",))
        >>> ZeroShotClassification("pets", data, clip="clip-vit-base-patch32", prompts=prompts)
        ZeroShotClassification('pets', objective=accuracy, search=2)
    """

    def __init__(
        self,
        name: str,
        data: LabelledData,
        *,
        clip: str | Path,
        prompts: Prompts,
        allow_pickle: bool = False,
        cache: str | Path | None = None,
        **options: Any,
    ) -> None:
        check_order(name, data.classes, prompts.class_names)
        super().__init__(name, data, **({"processor": clip} | options))
        self.prompts = prompts
        self._clip = Path(clip)
        self._allow_pickle = allow_pickle
        self._cache = cache
        self._head: dict[str, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_head": {}}

    def head_tensors(self) -> dict[str, Tensor]:
        """The frozen head on the task's device.

        Returns:
            ``"projection"`` of shape (d, width), ``"classes"`` (C, d) of length one, and the
            factor ``"scale"``.
        """
        if not self._head or self._head["classes"].device != self._device:
            with torch.inference_mode(False):
                head = zero_shot_head(
                    self._clip,
                    self.prompts,
                    role=f"text tower of task {self.name!r}",
                    allow_pickle=self._allow_pickle,
                    cache=self._cache,
                )
                self._head = {key: value.to(self._device) for key, value in head.items()}
        return self._head

    def logits(self, module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Class scores ``(B, C)``."""
        head = self.head_tensors()
        tower: Any = getattr(module, "vision_model", module)  # of a whole CLIP model
        pooled: Tensor = tower(**inputs).pooler_output
        if pooled.shape[-1] != head["projection"].shape[1]:
            raise PoolError(
                f"task {self.name!r}: the vision tower gives {pooled.shape[-1]} numbers a picture, "
                f"the projection of {self._clip} takes {head['projection'].shape[1]}; name the "
                "CLIP model that the experts were fine-tuned from (clip = ...)"
            )
        features = normalize(pooled @ head["projection"].T, dim=-1)
        return head["scale"] * (features @ head["classes"].T)

    def fingerprint(self, split: str) -> str:
        """Hash of the preprocessed pictures, the labels and the head."""
        digest = xxhash.xxh3_128(super().fingerprint(split).encode())
        for _, value in sorted(self.head_tensors().items()):
            digest.update(tensor_bytes(value.flatten()))
        return digest.hexdigest()


def zero_shot_head(
    clip: Path,
    prompts: Prompts,
    *,
    role: str = "text tower",
    allow_pickle: bool = False,
    cache: str | Path | None = None,
) -> dict[str, Tensor]:
    """Head of a CLIP model for these classes, from the cache if it was made before.

    For every class: each template through the text tower, to length one, mean, to length one.
    The cache's key is the content of text tower, tokenizer, templates and names, so a change of any
    of them makes another head.

    Returns:
        ``"projection"``, ``"classes"`` and ``"scale"``, see
        :meth:`ZeroShotClassification.head_tensors`.

    Raises:
        PoolError: `clip` is no CLIP model, or cannot be read.
        DataError: It has no tokenizer.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    from moofusion.weights.sources import open_model

    model: Any
    model, folder = open_model(clip, role=role, allow_pickle=allow_pickle)
    if not hasattr(model, "text_projection") or folder is None:
        raise PoolError(
            f"{role}: {clip} holds a {type(model).__name__}, which has no text tower; name the "
            "complete CLIP model"
        )
    file = _cache_folder(cache) / f"{_key(model, folder, prompts)}.safetensors"
    try:
        classes = load_file(file)["classes"]
    except (OSError, SafetensorError, KeyError):  # not there, or damaged
        classes = _read_classes(model, folder, prompts, role)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(f".{os.getpid()}")
            save_file({"classes": classes}, temporary)
            temporary.replace(file)
        except (OSError, SafetensorError):  # a full or read-only disk costs time, nothing else
            pass
    with torch.no_grad():
        return {
            "projection": model.visual_projection.weight.detach().clone(),
            "classes": classes,
            "scale": model.logit_scale.detach().exp(),
        }


def _cache_folder(cache: str | Path | None) -> Path:
    import platformdirs

    own = cache or os.environ.get("MOOFUSION_HEADS")
    return Path(own).expanduser() if own else platformdirs.user_cache_path("moofusion") / "heads"


def _key(model: Any, folder: Path, prompts: Prompts) -> str:
    digest = xxhash.xxh3_128(repr((prompts.class_names, prompts.templates)).encode())
    digest.update(json.dumps(model.config.text_config.to_dict(), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        if name.startswith("text_"):
            digest.update(name.encode())
            digest.update(tensor_bytes(value.flatten()))
    for file in sorted(folder.glob("*")):
        if re.match(r"tokenizer|vocab|merges|special_tokens|added_tokens", file.name):
            digest.update(file.name.encode() + file.read_bytes())
    return str(digest.hexdigest())


def _read_classes(model: Any, folder: Path, prompts: Prompts, role: str) -> Tensor:
    """Texts of the classes, shape (C, d), each of length one."""
    from moofusion.tasks.text import load_tokenizer

    tokenizer = load_tokenizer(folder, role)
    longest = model.config.text_config.max_position_embeddings
    rows = []
    with torch.inference_mode():
        for label in range(len(prompts.class_names)):
            inputs = tokenizer(
                prompts.sentences(label),
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            )
            states = model.text_model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).pooler_output
            texts = normalize(model.text_projection(states), dim=-1)
            rows.append(normalize(texts.mean(dim=0), dim=0))
    return torch.stack(rows).clone()
