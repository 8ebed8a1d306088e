"""Training and measuring small image classifiers: augmentation, pretraining, probe, fine-tuning.

Images are uint8 arrays ``(N, 28, 28)`` until the moment a batch is used; then they are scaled to
[-1, 1] as the shipped image processor does it. Every random choice comes from a generator that is
passed in, so the same data and seed give the same result up to the order of float additions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moofusion.zoo.fitting import fit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import ViTForImageClassification

    from moofusion.zoo.vision import Architecture, Training

#: Draws one batch: `generator` -> (uint8 images ``(B, 28, 28)``, labels ``(B,)``).
Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]


def pixel_values(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Scale uint8 images ``(N, 28, 28)`` to float32 ``(N, 1, 28, 28)`` in [-1, 1]."""
    batch = torch.as_tensor(images).to(torch.float32)
    return ((batch * (1 / 255) - 0.5) / 0.5)[:, None]


def augment(images: Tensor, *, options: Training, generator: torch.Generator) -> Tensor:
    """Turn, shift, scale, mirror and partly erase each image on its own.

    Args:
        images: uint8 images ``(B, 28, 28)``; 0 is background.
        options: how strong each change is.
        generator: source of randomness.

    Returns:
        float32 pixel values ``(B, 1, 28, 28)`` in [-1, 1].
    """
    count, size = images.shape[0], images.shape[-1]
    draws = torch.rand(count, 10, generator=generator)
    signed = draws[:, :5] * 2 - 1
    angle = signed[:, 0] * math.radians(options.angle)
    # grid_sample asks where each output pixel comes from, in units of half an image.
    width = 1 + signed[:, 1] * options.scale
    height = 1 + signed[:, 2] * options.scale
    if options.flip:
        width = torch.where(draws[:, 5] < 0.5, -width, width)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    shift = signed[:, 3:5] * (2 * options.shift / size)
    theta = torch.stack(
        [
            torch.stack([cosine * width, -sine * height, shift[:, 0]], 1),
            torch.stack([sine * width, cosine * height, shift[:, 1]], 1),
        ],
        1,
    )
    batch = images.to(torch.float32)[:, None] * (1 / 255)
    grid = functional.affine_grid(theta, list(batch.shape), align_corners=False)
    batch = functional.grid_sample(batch, grid, padding_mode="zeros", align_corners=False)
    if options.erase > 0:
        position = torch.arange(size)
        side = size * (0.15 + 0.25 * draws[:, 6])
        rows = (position - (draws[:, 7] * size)[:, None]).abs() < side[:, None] / 2
        columns = (position - (draws[:, 8] * size)[:, None]).abs() < side[:, None] / 2
        hit = rows[:, :, None] & columns[:, None, :]
        hit &= (draws[:, 9] < options.erase)[:, None, None]
        batch = batch.masked_fill(hit[:, None], 0.0)
    return (batch - 0.5) / 0.5


def sampler(images: NDArray[np.uint8], labels: NDArray[Any] | None, *, batch_size: int) -> Draw:
    """Draw batches without replacement, reshuffled whenever the data is used up.

    Without `labels` every image is labelled 0.
    """
    pixels = torch.from_numpy(images)
    targets = torch.zeros(len(pixels), dtype=torch.int64)
    if labels is not None:
        targets = torch.from_numpy(labels.astype(np.int64))
    queue = torch.empty(0, dtype=torch.int64)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        nonlocal queue
        while len(queue) < batch_size:
            queue = torch.cat([queue, torch.randperm(len(pixels), generator=generator)])
        index, queue = queue[:batch_size], queue[batch_size:]
        return pixels[index], targets[index]

    return draw


def with_rotations(sketches: Draw, photographs: Draw, *, first_label: int) -> Draw:
    """Join sketches with photographs turned by k * 90 degrees, labelled ``first_label + k``.

    The photographs' own labels are not used: turning is the only thing the base learns of them.
    """

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images, labels = sketches(generator)
        photos, _ = photographs(generator)
        turns = torch.randint(4, (len(photos),), generator=generator)
        turned = torch.stack([torch.rot90(photos, k, (1, 2)) for k in range(4)])
        photos = turned[turns, torch.arange(len(photos))]
        return torch.cat([images, photos]), torch.cat([labels, first_label + turns])

    return draw


def new_model(
    architecture: Architecture, classes: Iterable[str], *, seed: int
) -> ViTForImageClassification:
    """A freshly initialised ``ViTForImageClassification`` without dropout."""
    from dataclasses import asdict

    from transformers import ViTConfig, ViTForImageClassification

    names = list(classes)
    config = ViTConfig(
        **asdict(architecture),
        num_channels=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: ViTForImageClassification = ViTForImageClassification(config)
    return model


def train(
    model: ViTForImageClassification,
    draw: Draw,
    options: Training,
    *,
    seed: int,
    advance: Callable[[], object] = lambda: None,
) -> float:
    """Train `model` in place and return the mean loss of the last tenth of the steps."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.classifier.parameters():
        parameter.requires_grad_(options.train_head)

    def batch_loss() -> Tensor:
        images, labels = draw(generator)
        pixels = augment(images, options=options, generator=generator)
        return _loss(model, pixels, labels, options, generator)

    loss = fit(model, batch_loss, options, advance=advance)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return loss


def _loss(
    model: ViTForImageClassification,
    pixels: Tensor,
    labels: Tensor,
    options: Training,
    generator: torch.Generator,
) -> Tensor:
    def entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(logits, targets, label_smoothing=options.label_smoothing)

    if options.mixup and torch.rand(1, generator=generator).item() < options.mixup:
        share = 0.5 * torch.rand(1, generator=generator).item()
        order = torch.randperm(len(labels), generator=generator)
        logits = model(pixel_values=torch.lerp(pixels, pixels[order], share)).logits
        return (1 - share) * entropy(logits, labels) + share * entropy(logits, labels[order])
    return entropy(model(pixel_values=pixels).logits, labels)


def probe(
    model: ViTForImageClassification,
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    *,
    classes: int,
    steps: int,
) -> nn.Linear:
    """A linear head fitted to the frozen body's features (deterministic, starts from zero)."""
    features = torch.cat(
        [_features(model, part) for part in torch.split(torch.from_numpy(images), 250)]
    )
    targets = torch.from_numpy(labels.astype(np.int64))
    head = nn.Linear(features.shape[1], classes, device="meta").to_empty(device="cpu")
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.03, weight_decay=0.1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * (1 - step / steps)
        torch.autograd.backward(functional.cross_entropy(head(features), targets))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return head


def _features(model: ViTForImageClassification, images: Tensor) -> Tensor:
    with torch.no_grad():
        hidden: Tensor = model.vit(pixel_values=pixel_values(images)).last_hidden_state
    return hidden[:, 0]


def accuracy(
    model: ViTForImageClassification,
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    *,
    batch_size: int = 250,
) -> float:
    """Share of right answers in [0, 1], computed in the model's own precision."""
    right = 0
    targets = torch.from_numpy(labels.astype(np.int64))
    with torch.inference_mode():
        parts = torch.split(torch.from_numpy(images), batch_size)
        for pixels, target in zip(parts, torch.split(targets, batch_size), strict=True):
            logits = model(pixel_values=pixel_values(pixels)).logits
            right += int((logits.argmax(-1) == target).sum())
    return right / len(labels)


def matrix(
    bodies: Mapping[str, Mapping[str, Tensor]],
    heads: Mapping[str, ViTForImageClassification],
    data: Mapping[str, tuple[NDArray[np.uint8], NDArray[Any]]],
) -> dict[str, dict[str, float]]:
    """Accuracy of every body (state dict) on every task with that task's model as the head.

    The heads' models are used as containers: their bodies are overwritten.
    """
    table: dict[str, dict[str, float]] = {}
    for name, body in bodies.items():
        table[name] = {}
        for task, (images, labels) in data.items():
            heads[task].vit.load_state_dict(body)
            table[name][task] = accuracy(heads[task], images, labels)
    return table
