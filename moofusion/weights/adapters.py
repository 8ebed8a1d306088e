"""LoRA adapters of peft: read without it, turned into differences, written again."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moofusion.errors import PoolError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "Adapter",
    "Factors",
    "adapted_module",
    "add_",
    "is_adapter",
    "read_adapter",
    "transposed",
    "updates",
]

_PREFIX = "base_model.model."
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FACTOR = re.compile(r"^(.+)\.lora_(embedding_)?([AB])(?:\.weight)?$")
# What a plain low-rank product does not say; anything but empty is refused.
_REFUSED = {
    "use_dora": "DoRA rescales whole rows of the weights",
    "use_qalora": "QALoRA pools the inputs first",
    "use_bdlora": "block-diagonal factors are another product",
    "lora_bias": "the factors have biases",
    "alora_invocation_tokens": "it acts on some tokens only",
    "trainable_token_indices": "it replaces single rows of the embedding",
    "layer_replication": "it repeats layers of the base",
    "target_parameters": "it adapts parameters that belong to no plain layer",
    "arrow_config": "it chooses among adapters by input",
    "velora_config": "it is another kind of layer",
    "monteclora_config": "it is another kind of layer",
    "kasa_config": "it is another kind of layer",
}
_MUTATING = ("pissa", "corda", "olora", "loftq", "lora_ga")


@dataclass(frozen=True)
class Factors:
    """The low-rank update of one layer, ``scale * B @ A`` in the order of peft.

    Attributes:
        A: Shape ``(r, inputs)``, single precision; what a convolution has more is flattened.
        B: Shape ``(outputs, r)``.
        scale: ``alpha / r``, or ``alpha / sqrt(r)`` with rslora.
        embedding: Whether the layer looks up rows.
    """

    A: Tensor
    B: Tensor
    scale: float
    embedding: bool = False

    @property
    def rank(self) -> int:
        """The r of the factors."""
        return len(self.A)

    def product(self) -> Tensor:
        """``scale * B @ A``, shape ``(outputs, inputs)``."""
        return (self.B @ self.A) * self.scale


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        folder: Where it came from.
        config: Its adapter_config.json.
        factors: Update of each layer, by the layer's name in the model it was trained on.
        saved: Whole tensors that replace those of the base (``modules_to_save``), by name.
    """

    folder: Path
    config: Mapping[str, Any]
    factors: Mapping[str, Factors]
    saved: Mapping[str, Tensor]


def is_adapter(source: object) -> bool:
    """Whether `source` is a folder with an adapter and no model of its own.

    Example:
        >>> is_adapter("no-such-folder")
        False
    """
    if not isinstance(source, str | Path):
        return False
    folder = Path(source).expanduser()
    return (folder / _CONFIG).exists() and not (folder / "config.json").exists()


def read_adapter(folder: str | Path, *, role: str) -> Adapter:
    """Read an adapter that peft's ``save_pretrained`` wrote; nothing is ever unpickled.

    Args:
        folder: Holds adapter_config.json and adapter_model.safetensors.
        role: Who asks, for the messages.

    Raises:
        PoolError: It cannot be read, or is more than a low-rank update; the message says what.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder).expanduser()
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no table")
    except (OSError, ValueError) as error:
        raise PoolError(f"{role}: {folder / _CONFIG} cannot be used: {error}") from error
    _check_kind(config, folder, role)
    if not (folder / _WEIGHTS).exists():
        raise PoolError(
            f"{role}: {folder} holds no {_WEIGHTS}; pickled adapters are not read, since "
            "unpickling can run code: save the adapter again with peft, which writes safetensors"
        )
    try:
        stored = load_file(folder / _WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise PoolError(
            f"{role}: {folder / _WEIGHTS} cannot be read ({error}); it is damaged, fetch it again"
        ) from error
    return _parse(stored, config, folder, role)


def _check_kind(config: Mapping[str, Any], folder: Path, role: str) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise PoolError(f"{role}: {folder} is an adapter of kind {kind!r}; only LORA can be merged")
    reasons = [f"{key}: {why}" for key, why in _REFUSED.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        reasons.append(f"bias = {config['bias']!r}: biases were trained beside the factors")
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(_MUTATING):
        reasons.append(f"init_lora_weights = {start!r}: it is relative to a changed base")
    if reasons:
        raise PoolError(
            f"{role}: the adapter in {folder} is no plain low-rank update ({'; '.join(reasons)}); "
            "merge it into its base with peft (merge_and_unload) and give the full model"
        )


def _parse(
    stored: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path, role: str
) -> Adapter:
    found: dict[str, dict[str, Tensor]] = {}
    saved: dict[str, Tensor] = {}
    embeddings = set()
    to_save = [str(name) for name in config.get("modules_to_save") or ()]
    for key, tensor in stored.items():
        name, tensor = key.removeprefix(_PREFIX), tensor.float()
        if not bool(tensor.isfinite().all()):
            raise PoolError(f"{role}: tensor {key} of the adapter holds NaN or infinite values")
        if match := _FACTOR.match(name):
            layer, embedding, side = match.groups()
            found.setdefault(layer, {})[side] = tensor.flatten(1)
            if embedding:
                embeddings.add(layer)
        elif any(f".{module}." in f".{name}" for module in to_save):
            saved[name] = tensor
        else:
            raise PoolError(
                f"{role}: tensor {key} of the adapter in {folder} is neither a factor nor of "
                f"modules_to_save ({', '.join(to_save) or 'none'}); merge it into its base with "
                "peft (merge_and_unload) and give the full model"
            )
    if not found:
        raise PoolError(f"{role}: the adapter in {folder} holds no factors")
    factors = {}
    for layer, sides in found.items():
        if set(sides) != {"A", "B"} or len(sides["A"]) != sides["B"].shape[1]:
            shapes = {side: tuple(tensor.shape) for side, tensor in sides.items()}
            raise PoolError(f"{role}: the factors of {layer} do not fit each other: {shapes}")
        scale = _scale(layer, len(sides["A"]), config)
        factors[layer] = Factors(sides["A"], sides["B"], scale, layer in embeddings)
    return Adapter(folder, config, factors, saved)


def _scale(layer: str, rank: int, config: Mapping[str, Any]) -> float:
    """Peft's scaling: the first pattern that ends the name of the layer has its own alpha."""
    alpha = float(config.get("lora_alpha", 8))
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            alpha = float(own)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def adapted_module(base: nn.Module, adapter: Adapter, *, role: str) -> nn.Module:
    """A copy of the base that shares every tensor with it, but for those the adapter replaces.

    The low-rank updates are not applied: they belong into the flat buffer.

    Raises:
        PoolError: The base has no such modules.
    """
    from torch import nn

    memo: dict[int, Any] = {id(p): p for p in base.parameters()}
    memo.update({id(b): b for b in base.buffers()})
    module = copy.deepcopy(base, memo)
    for name, tensor in adapter.saved.items():
        place, _, key = name.rpartition(".")
        try:
            owner = module.get_submodule(place)
        except AttributeError:
            owner = None
        if owner is None or owner._parameters.get(key) is None:
            raise PoolError(
                f"{role}: the adapter brings {name}, which the base has not; give as base the "
                "class of model that the adapter was trained on (for a classifier: "
                "AutoModelForSequenceClassification.from_pretrained(...).save_pretrained(...))"
            )
        owner._parameters[key] = nn.Parameter(tensor, requires_grad=False)
        if isinstance(owner, nn.Linear):
            owner.out_features = len(tensor)
            config: Any = getattr(module, "config", None)
            if config is not None and place in ("classifier", "score"):
                config.num_labels = len(tensor)
    return module


def updates(base: nn.Module, adapter: Adapter, *, role: str) -> dict[str, Factors]:
    """Factors by the full name of the parameter of `base` that they change.

    Raises:
        PoolError: A layer is missing, tied to another, of another shape, or of a kind without a
            plain weight.
    """
    body = getattr(base, "base_model_prefix", "")
    modules = dict(base.named_modules())
    parameters = dict(base.named_parameters())
    result = {}
    for layer, factors in adapter.factors.items():
        choices = (layer, layer.removeprefix(f"{body}."), f"{body}.{layer}")
        name = next((choice for choice in choices if choice in modules), None)
        if name is None:
            raise PoolError(
                f"{role}: the adapter changes {layer}, which the base has not; it was trained on "
                "another architecture"
            )
        full = f"{name}.weight"
        weight = getattr(modules[name], "weight", None)
        if weight is None:
            raise PoolError(f"{role}: layer {name} has no plain weight, so it cannot be merged")
        if full not in parameters:
            raise PoolError(
                f"{role}: the adapter changes {full}, which is tied to another layer; a merge "
                "would change both"
            )
        outputs, inputs = len(factors.B), factors.A.shape[1]
        shape = tuple(weight.shape)
        wanted = (outputs, inputs)
        if transposed(modules[name]):
            wanted = (inputs, outputs)
        if (shape[0], math.prod(shape[1:])) != wanted:
            raise PoolError(
                f"{role}: the factors of {layer} make a weight of shape {wanted}, the base's is "
                f"{shape}; it was trained on another base"
            )
        result[full] = factors
    return result


def transposed(layer: nn.Module) -> bool:
    """Whether a layer stores its weight as (inputs, outputs): GPT-2's Conv1D, embeddings."""
    from torch import nn

    return isinstance(layer, nn.Embedding) or type(layer).__name__ == "Conv1D"


def add_(weight: Tensor, factors: Factors, *, transpose: bool) -> None:
    """Add the update to a weight in its own shape, in place, as peft merges it."""
    product = factors.product().to(weight.device)
    weight += (product.T if transpose else product).reshape(weight.shape)
