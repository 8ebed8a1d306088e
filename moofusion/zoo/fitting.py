"""Trains any model of the zoo: AdamW, linear warm-up, cosine decay, clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import Tensor, nn

R = TypeVar("R", bound="DataclassInstance")


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How long and how fast a model is trained.

    Attributes:
        steps: number of batches.
        batch_size: samples per batch.
        learning_rate: at its highest, after the share `warmup` of the steps.
        weight_decay: of the matrices; vectors are not decayed.
        warmup: share of the steps in which the rate rises.
    """

    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1

    def scaled(self, factor: float) -> Self:
        """The same with `factor` times the steps, but at least two."""
        return replace(self, steps=max(2, round(self.steps * factor)))


def scaled(recipe: R, *, seed: int | None, steps_scale: float) -> R:
    """A recipe with another `seed`, where one is given, and every training in it scaled."""
    changes: dict[str, Any] = {} if seed is None else {"seed": seed}
    for name, value in vars(recipe).items():
        if isinstance(value, Fitting):
            changes[name] = value.scaled(steps_scale)
        elif isinstance(value, dict):
            changes[name] = {key: part.scaled(steps_scale) for key, part in value.items()}
    return replace(recipe, **changes)


def fit(
    model: nn.Module,
    batch_loss: Callable[[], Tensor],
    options: Fitting,
    *,
    advance: Callable[[], object] = lambda: None,
) -> float:
    """Train the parameters that require a gradient, in place.

    Args:
        model: what is trained; afterwards in evaluation mode.
        batch_loss: loss of the next batch, with a graph.
        options: steps and rates.
        advance: called after each step.

    Returns:
        The mean loss of the last tenth of the steps.
    """
    groups = [
        {
            "params": [p for p in model.parameters() if p.requires_grad and (p.ndim > 1) == wide],
            "weight_decay": decay,
        }
        for wide, decay in ((True, options.weight_decay), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
    warmup = max(1, round(options.warmup * options.steps))
    losses: list[float] = []
    model.train()
    for step in range(options.steps):
        rate = min((step + 1) / warmup, 1.0)
        rate *= 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / options.steps))
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * rate
        loss = batch_loss()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        advance()
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)
