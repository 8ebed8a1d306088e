"""Merged LoRA adapters as one adapter: summed, concatenated, or compressed to a rank."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from moofusion.errors import ConfigurationError, PoolError, UnknownNameError
from moofusion.weights.adapters import Adapter, Factors, transposed, updates
from moofusion.weights.export import DTYPES
from moofusion.weights.folders import add_companions, new_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from moofusion.weights.pool import LoadedPool

__all__ = [
    "COMBINATIONS",
    "check_combination",
    "combine",
    "compress",
    "compressed",
    "how_made",
    "require_adapters",
    "save_adapter",
    "write_adapter",
]

#: Ways to write a merge of adapters as an adapter.
COMBINATIONS = ("svd", "cat", "linear")

_WEIGHTS = "adapter_model.safetensors"


def combine(factors: Sequence[Factors], row: Sequence[float], how: str) -> tuple[Tensor, Tensor]:
    """Factors A ``(r, inputs)`` and B ``(outputs, r)``, with scale 1, of adapters of one layer.

    Args:
        factors: Of each adapter that changes the layer.
        row: Their coefficients.
        how: ``"cat"``: one below the other, exact, the ranks add up. ``"linear"``: sums of the A
            and of the B, with the roots of coefficient times scale (peft's ``"linear"``); cross
            terms ``B_i A_j`` make it another model than the merge of the weights.

    Raises:
        ConfigurationError: ``"linear"`` with different ranks.

    Example:
        >>> one = Factors(torch.ones(1, 2), torch.ones(3, 1), 2.0)
        >>> A, B = combine([one, one], [0.5, 0.25], "cat")
        >>> (B @ A)[0]
        tensor([1.5000, 1.5000])
    """
    steps = [float(weight) * one.scale for weight, one in zip(row, factors, strict=True)]
    if how == "cat":
        parts = [one.A * step for one, step in zip(factors, steps, strict=True)]
        return torch.cat(parts), torch.cat([one.B for one in factors], dim=1)
    ranks = [one.rank for one in factors]
    if len(set(ranks)) > 1:
        raise ConfigurationError(
            f"how='linear' adds factors up, so they must have one rank; got ranks {ranks}. Use "
            "'cat' (exact) or 'svd'"
        )
    A, B = torch.zeros_like(factors[0].A), torch.zeros_like(factors[0].B)
    for one, step in zip(factors, steps, strict=True):
        root = math.sqrt(abs(step))
        A += math.copysign(root, step) * one.A
        B += root * one.B
    return A, B


def compress(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors A and B of the best approximation of a matrix in the Frobenius norm.

    Args:
        delta: Shape ``(outputs, inputs)``.
        rank: Largest rank.

    Example:
        >>> A, B = compress(torch.ones(3, 2), 1)
        >>> bool(torch.allclose(B @ A, torch.ones(3, 2), atol=1e-6))
        True
    """
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    return Vh[:rank], U[:, :rank] * S[:rank]


def save_adapter(
    pool: LoadedPool,
    weights: Tensor,
    *,
    to: Path,
    head: str,
    how: str = "svd",
    rank: int | None = None,
    coefficients: Callable[[str], Sequence[float]] | None = None,
    card: str,
    recipe: Mapping[str, Any],
    dtype: str = "float32",
    force: bool = False,
) -> Path:
    """Write a merge of a pool of adapters as an adapter that ``peft.PeftModel`` loads.

    Scales are folded into the factors (``lora_alpha = r``); layers of smaller rank are filled up
    with zeros. What the adapter of the head saved whole (its classifier) is written with it.

    Args:
        pool: All its experts are adapters.
        weights: Flat merged weights, shape ``(D,)``.
        to: Folder to write.
        head: Module of the pool whose head the adapter carries.
        how: One of :data:`COMBINATIONS`; ``"svd"`` takes the difference of `weights` to the base,
            of any method, one tensor at a time.
        rank: Rank for ``"svd"``; by default the ranks of the adapters added up, which is exact for
            linear merges.
        coefficients: For ``"cat"`` and ``"linear"``, the row ``(K,)`` by name of the tensor.
        card: Written as README.md.
        recipe: Written as ``merge.json``.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        force: Replace an earlier export.

    Raises:
        PoolError: An expert is no adapter, or the merge changes more than the adapted layers.
        ConfigurationError: `how` does not suit the ranks, or `rank` is no positive number.
        UnknownNameError: There is no such way, head or dtype.
        RunError: `to` exists, or cannot be written.
    """
    check_combination(how, rank)
    if head not in pool.model.modules:
        raise UnknownNameError("head", head, pool.model.modules)
    require_adapters(name for name in pool.vectors.names if name not in pool.adapters)
    module = pool.model.modules[head]
    # The base has the layers of all adapters; their full names are those of the head's module.
    found = {n: updates(module, a, role=f"expert {n!r}") for n, a in pool.adapters.items()}
    names = {short: full for full, short in _merged_names(pool, module).items()}
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for entry in pool.layout.entries:
        full = names[entry.name]
        own = {name: layers[full] for name, layers in found.items() if full in layers}
        delta = (weights[entry.slice] - pool.vectors.base[entry.slice]).cpu()
        if not own:
            size = float(pool.vectors.base[entry.slice].abs().max())
            if float(delta.abs().max()) > 1e-5 * size:
                raise PoolError(
                    f"the merge changes {full}, which no adapter has factors for; export the whole "
                    "model instead"
                )
            continue
        if how == "svd":
            layer = module.get_submodule(full.removesuffix(".weight"))
            pairs[full] = compressed(delta.view(entry.shape), layer, list(own.values()), rank)
        else:
            assert coefficients is not None
            row = dict(zip(pool.vectors.names, coefficients(entry.name), strict=True))
            pairs[full] = combine(list(own.values()), [row[name] for name in own], how)
    carried = pool.adapters.get(head)
    base = pool.folders.get("base")
    return write_adapter(
        pairs,
        module,
        to=to,
        like=carried or next(iter(pool.adapters.values())),
        saved={} if carried is None else carried.saved,
        base=base,
        companions=[f for f in (pool.folders.get(head), base) if f is not None],
        card=card,
        recipe=recipe,
        dtype=dtype,
        force=force,
    )


def write_adapter(
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    module: nn.Module,
    *,
    to: Path,
    like: Adapter,
    saved: Mapping[str, Tensor],
    base: Path | None,
    companions: Sequence[Path],
    card: str,
    recipe: Mapping[str, Any],
    dtype: str = "float32",
    force: bool = False,
) -> Path:
    """Write factors as an adapter, complete or not at all.

    Args:
        pairs: Factors A and B, of scale 1, by the full name of the weight.
        module: Where these layers are; its weights are not read.
        to: Folder to write.
        like: The adapter that says of what kind of task it is.
        saved: Whole tensors of `modules_to_save`, by name.
        base: Folder of the base.
        companions: Folders that may have a tokenizer; that of the first that has one is copied.
        card: Written as README.md.
        recipe: Written as ``merge.json``.
        dtype: Precision of the tensors.
        force: Replace an earlier export.

    Raises:
        UnknownNameError: There is no such dtype.
        RunError: `to` exists, or cannot be written.
    """
    from safetensors.torch import save_file

    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    r = max(len(A) for A, _ in pairs.values())
    tensors: dict[str, Tensor] = {}
    for full, (A, B) in pairs.items():
        tensors |= _stored(full.removesuffix(".weight"), module, A, B, r)
    tensors |= {f"base_model.model.{name}": value for name, value in saved.items()}
    kind = getattr(torch, dtype)
    config = _config(module, like, pairs, r) | {
        "base_model_name_or_path": str(base or like.config.get("base_model_name_or_path") or ""),
        "modules_to_save": like.config.get("modules_to_save") if saved else None,
    }
    with new_folder(to, mark="merge.json", force=force) as folder:
        save_file({k: v.to(kind).contiguous() for k, v in tensors.items()}, folder / _WEIGHTS)
        text = json.dumps(config, indent=2) + "\n"
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")
        add_companions(folder, sources=companions, card=card, recipe=recipe)
    return to


def compressed(
    delta: Tensor, layer: nn.Module, factors: Sequence[Factors], rank: int | None
) -> tuple[Tensor, Tensor]:
    """Factors A and B of the change of a layer's weight.

    Args:
        delta: In the shape of the weight.
        layer: The layer.
        factors: What the adapters have of it.
        rank: Largest rank; by default their ranks added up.
    """
    matrix = delta.flatten(1)
    most = sum(one.rank for one in factors) if rank is None else rank
    return compress(matrix.T if transposed(layer) else matrix, most)


def check_combination(how: str, rank: int | None, method: str = "linear") -> None:
    """Refuse ways to write an adapter that do not exist or do not suit the merge method.

    Raises:
        UnknownNameError: There is no such way.
        ConfigurationError: It does not suit the method, or `rank` is no positive number.
    """
    if how not in COMBINATIONS:
        raise UnknownNameError("combination", how, COMBINATIONS)
    if rank is not None and (how != "svd" or not isinstance(rank, int) or rank < 1):
        raise ConfigurationError(f"rank={rank!r}: a positive whole number, with how='svd' alone")
    if how != "svd" and method != "linear":
        raise ConfigurationError(
            f"how={how!r} combines the factors themselves, which is no merge by {method!r}; "
            "use how='svd'"
        )


def require_adapters(full: Iterable[str]) -> None:
    """Refuse what cannot be one adapter.

    Args:
        full: Names of the experts that are full models.

    Raises:
        PoolError: There are some.
    """
    for name in full:
        raise PoolError(
            f"expert {name!r} is a full model; only a pool of adapters is exported as an adapter"
        )


def how_made(how: str, rank: int | None) -> str:
    """How the factors of an exported adapter were made, for its card."""
    if how == "svd":
        most = "the ranks of the experts added up" if rank is None else f"rank {rank}"
        return (
            f"The change that the merge makes to each layer was compressed to {most} (singular "
            "value decomposition)."
        )
    if how == "cat":
        return "The factors of the experts stand one below the other, which is the merge exactly."
    return (
        "The factors of the experts were added up, which is another model than the merge of their "
        "weights."
    )


def _merged_names(pool: LoadedPool, module: nn.Module) -> dict[str, str]:
    """Full names of the shared parameters of a module, to their names in the layout."""
    shared = pool.model.merged_names()
    return {n: shared[id(p)] for n, p in module.named_parameters() if id(p) in shared}


def _stored(layer: str, module: nn.Module, A: Tensor, B: Tensor, r: int) -> dict[str, Tensor]:
    """The factors of a layer as peft stores them, filled up to rank `r`."""
    from torch import nn

    owner = module.get_submodule(layer)
    A = nn.functional.pad(A, (0, 0, 0, r - len(A)))
    B = nn.functional.pad(B, (0, r - B.shape[1]))
    start = f"base_model.model.{layer}.lora_"
    if isinstance(owner, nn.Embedding):
        return {f"{start}embedding_A": A, f"{start}embedding_B": B}
    weight: Any = owner.weight
    kernel = tuple(weight.shape[2:])
    A, B = A.reshape(r, -1, *kernel), B.reshape(-1, r, *(1 for _ in kernel))
    return {f"{start}A.weight": A, f"{start}B.weight": B}


def _config(module: nn.Module, like: Adapter, layers: Mapping[str, Any], r: int) -> dict[str, Any]:
    layer_names = sorted(full.removesuffix(".weight") for full in layers)
    conv = any(type(module.get_submodule(name)).__name__ == "Conv1D" for name in layer_names)
    return {
        "peft_type": "LORA",
        "task_type": like.config.get("task_type"),
        "r": r,
        "lora_alpha": r,
        "lora_dropout": 0.0,
        "target_modules": layer_names,
        "fan_in_fan_out": conv,
        "bias": "none",
        "inference_mode": True,
    }
