"""The model card of a merged model: what it is made of, how it was chosen, how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["model_card"]

# More rows of coefficients than this are left to merge.json.
_MAX_ROWS = 24


def model_card(
    *,
    base: str,
    experts: Mapping[str, str],
    method: str,
    groups: Sequence[str],
    coefficients: NDArray[np.float64],
    metrics: Mapping[str, Mapping[str, float]],
    metric_names: Mapping[str, str],
    chosen: str,
    head: str,
    other_heads: Sequence[str],
    model_class: str,
    pretrained: bool,
    dtype: str,
    settings: Mapping[str, Any],
    found: str | None = None,
    adapter: str | None = None,
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        base: Where the base came from.
        experts: Where each expert came from.
        method: The merge method, as a sentence.
        groups: Names of the G groups.
        coefficients: Merge coefficients, shape ``(G, K)``.
        metrics: For each split the measured metric of every task.
        metric_names: Name of each task's metric.
        chosen: How this point of the front was chosen.
        head: Task whose head the checkpoint carries.
        other_heads: Tasks whose heads are stored beside it.
        model_class: Class of the checkpoint.
        pretrained: Whether it is a class of transformers.
        dtype: Precision in which the weights are stored.
        settings: What was run.
        found: How the coefficients were found, instead of the line made from `settings`.
        adapter: Of a LoRA adapter, how its factors were made, as a sentence.
    """
    found = found or (
        f"found by `{settings['algorithm']}` on problem `{settings['problem']}`, "
        f"{settings['evaluations']} evaluations, seed {settings['seed']}"
    )
    names = list(experts)
    parents = [source for source in [base, *experts.values()] if _is_hub_id(source)]
    library = "transformers" if adapter is None else "peft"
    lines = ["---", f"library_name: {library}", "tags: [merge, moofusion]"]
    if parents:
        lines += ["base_model:", *(f"  - {source}" for source in dict.fromkeys(parents))]
    lines += [
        "---",
        "",
        f"# A merge of {', '.join(names)}",
        "",
        f"Made with moofusion by {method}.",
        *([] if adapter is None else ["", f"A LoRA adapter for the base. {adapter}"]),
        "",
        f"- base: `{base}`",
        *(f"- expert {name}: `{source}`" for name, source in experts.items()),
        f"- {chosen}",
        f"- {found}",
        f"- problem fingerprint `{settings['fingerprint']}`",
        "",
        "## Measured",
        "",
        "| task | metric | " + " | ".join(metrics) + " |",
        "|---|---|" + "---|" * len(metrics),
    ]
    tasks = next(iter(metrics.values()), {})
    lines += [
        f"| {task} | {metric_names[task]} | "
        + " | ".join(f"{metrics[split][task]:.6g}" for split in metrics)
        + " |"
        for task in tasks
    ]
    lines += [
        "",
        "The search split chose the model; the test split was not used for any choice.",
        *_rounding(dtype),
        "",
        "## Coefficients",
        "",
    ]
    if len(groups) <= _MAX_ROWS:
        lines += ["| group | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        lines += [
            f"| {group} | " + " | ".join(f"{value:.4f}" for value in row) + " |"
            for group, row in zip(groups, coefficients, strict=True)
        ]
    else:
        lines += [f"{len(groups)} groups; all coefficients are in `merge.json`. Means:", ""]
        lines += [f"- {n}: {v:.4f}" for n, v in zip(names, coefficients.mean(0), strict=True)]
    if adapter is not None:
        usage = _adapter_usage(model_class, base)
    else:
        usage = (_pretrained_usage if pretrained else _module_usage)(model_class, other_heads)
    carrier = "checkpoint" if adapter is None else "adapter"
    lines += ["", "## Use", "", f"The {carrier} carries the head of **{head}**.", ""]
    lines += ["```python", *usage, "```", ""]
    if other_heads:
        lines += [f"Heads stored beside it: {', '.join(other_heads)}.", ""]
    return "\n".join(lines)


def _rounding(dtype: str) -> list[str]:
    if dtype == "float32":
        return []
    return ["", f"Measured in float32; the weights are stored rounded to {dtype}."]


def _pretrained_usage(model_class: str, other_heads: Sequence[str]) -> list[str]:
    lines = [
        f"from transformers import {model_class}",
        "",
        'path = "PATH"',
        f"model = {model_class}.from_pretrained(path)",
    ]
    if other_heads:
        lines += [
            "",
            "# The same weights with the head of another task. transformers reports a classifier",
            "# that it could not fill; the last line fills it.",
            "from safetensors.torch import load_file",
            "from transformers import AutoConfig",
            "",
            f'task = "{other_heads[0]}"',
            'config = AutoConfig.from_pretrained(f"{path}/heads/{task}")',
            f"model = {model_class}.from_pretrained(",
            "    path, config=config, ignore_mismatched_sizes=True)",
            'head = load_file(f"{path}/heads/{task}/head.safetensors")',
            "model.load_state_dict(head, strict=False)",
        ]
    return lines


def _adapter_usage(model_class: str, base: str) -> list[str]:
    return [
        "from peft import PeftModel",
        f"from transformers import {model_class}",
        "",
        f'base = {model_class}.from_pretrained("{base}")',
        'model = PeftModel.from_pretrained(base, "PATH")',
    ]


def _module_usage(model_class: str, other_heads: Sequence[str]) -> list[str]:
    lines = [
        "from safetensors.torch import load_file",
        "",
        'path = "PATH"',
        f'weights = load_file(f"{{path}}/model.safetensors")  # of your {model_class}',
        "model.load_state_dict(weights, strict=False)  # tied tensors are stored once",
    ]
    if other_heads:
        lines += [
            "",
            "# with the head of another task:",
            f'head = load_file(f"{{path}}/heads/{other_heads[0]}/head.safetensors")',
            "model.load_state_dict(head, strict=False)",
        ]
    return lines


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~", "zoo:"))
