"""Toy models, tasks and problems: the parts of a transformer, evaluated in a millisecond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moofusion.problems import MergeProblem
from moofusion.tasks import Task, TensorClassification
from moofusion.weights import ModelPool

__all__ = ["SIZES", "ToyNet", "drift", "toy_net", "toy_pool", "toy_problem", "toy_tasks"]

#: Samples of every split of a toy task.
SIZES = {"train": 60, "search": 48, "test": 36}


class ToyBlock(nn.Module):
    """A residual block whose parts are named like those of a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attn = nn.Linear(width, width)
        self.mlp = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Activations ``(B, width)`` to the same shape."""
        return x + torch.tanh(self.mlp(torch.tanh(self.attn(self.norm(x)))))


class ToyNet(nn.Module):
    """A classifier of vectors with the parts of a transformer: stem, blocks, norm, head.

    Args:
        inputs: Length of the vectors.
        width: Length of the activations.
        depth: Number of blocks.
        classes: Number of classes.

    Example:
        >>> ToyNet()(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(self, inputs: int = 4, width: int = 8, depth: int = 3, classes: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(ToyBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(B, inputs)`` to class scores ``(B, classes)``."""
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        scores: Tensor = self.head(self.norm(x))
        return scores


def toy_net(seed: int = 0, **options: int) -> ToyNet:
    """A :class:`ToyNet` of random weights; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ToyNet(**options).eval()


def drift(model: nn.Module, seed: int, scale: float = 0.1, only: str = "") -> nn.Module:
    """Add noise to the floating tensors of a model, in place: a stand-in for fine-tuning.

    Args:
        model: What is changed.
        seed: Of the noise.
        scale: Its standard deviation.
        only: Part of a name; tensors without it stay as they are.

    Returns:
        The model.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and only in name:
                tensor.add_(scale * torch.randn(tensor.shape, generator=generator))
    return model


def toy_pool(experts: Sequence[str] = ("a", "b", "c")) -> ModelPool:
    """A base and experts that are random walks away from it."""
    walks = {name: drift(toy_net(), 10 + i, 0.5) for i, name in enumerate(experts)}
    return ModelPool(toy_net(), walks)


def toy_tasks(pool: ModelPool, names: Sequence[str] | None = None, **options: Any) -> list[Task]:
    """A task for every expert, labelled by that expert with some noise, in three splits.

    Args:
        pool: A pool of :func:`toy_pool`.
        names: Experts that get a task; None for all.
        **options: Passed to :class:`moofusion.TensorClassification`.
    """
    return [_toy_task(pool, name, **options) for name in names or pool.names]


def _toy_task(pool: ModelPool, name: str, **options: Any) -> Task:
    generator = torch.Generator().manual_seed(100 + pool.names.index(name))
    expert = pool.experts[name]
    assert isinstance(expert, nn.Module)
    data = {}
    for split, size in SIZES.items():
        x = torch.randn(size, 4, generator=generator)
        with torch.no_grad():
            y = expert(x).argmax(dim=1)
        flip = torch.rand(size, generator=generator) < 0.1
        data[split] = (x, torch.where(flip, (y + 1) % 3, y))
    return TensorClassification(name, data, classes=3, **options)


def toy_problem(
    experts: Sequence[str] = ("a", "b", "c"),
    tasks: Sequence[str] | None = None,
    objective: str = "accuracy",
    **options: Any,
) -> MergeProblem:
    """A MergeProblem that takes a millisecond per evaluation.

    Args:
        experts: Names of the experts.
        tasks: Experts that get a task, an objective each; None for all.
        objective: Metric that is optimized: ``"accuracy"``, ``"macro_f1"`` or ``"loss"``.
        **options: Passed to :class:`moofusion.MergeProblem`.

    Example:
        >>> toy_problem(("a", "b")).evaluate([[0.5, 0.5]]).shape
        (1, 2)
    """
    pool = toy_pool(experts)
    return MergeProblem(pool, toy_tasks(pool, tasks, objective=objective), **options)
