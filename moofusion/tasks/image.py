"""Image classification: pictures through the model's own image processor, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moofusion.errors import DataError
from moofusion.tasks.classification import ClassificationTask
from moofusion.tasks.data import LabelledData

__all__ = ["ImageClassification"]

_CHUNK = 1000


class ImageClassification(ClassificationTask):
    """Classification of images.

    Args:
        name: Name of the task.
        data: Images and labels (see :func:`moofusion.tasks.read_labelled`).
        processor: Image processor, or the folder or hub id it is loaded from.
        **options: Passed to :class:`ClassificationTask`.

    Example:
        >>> from transformers import ViTImageProcessorPil
        >>> images = np.zeros((4, 28, 28), np.uint8)
        >>> data = LabelledData({"search": images}, {"search": np.arange(4) % 2}, ("a", "b"))
        >>> processor = ViTImageProcessorPil(do_resize=False, image_mean=[0.5], image_std=[0.5])
        >>> task = ImageClassification("demo", data, processor=processor)
        >>> tuple(task.data("search")[0]["pixel_values"].shape)
        (4, 1, 28, 28)
    """

    def __init__(
        self, name: str, data: LabelledData, *, processor: str | Path | Any, **options: Any
    ) -> None:
        super().__init__(name, classes=data.classes, splits=data.sizes, **options)
        self._data = data
        self._processor = processor

    def _tensors(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        if isinstance(self._processor, str | Path):
            self._processor = _load_processor(self._processor, self.name)
        items, channels = self._data.items[split], _channels(self._processor)
        try:
            pixels = [
                self._processor(
                    images=[_fit(image, channels) for image in items[start : start + _CHUNK]],
                    return_tensors="pt",
                    input_data_format="channels_last",
                )["pixel_values"]
                for start in range(0, len(items), _CHUNK)
            ]
        except (ValueError, TypeError, RuntimeError) as error:
            raise DataError(
                f"task {self.name!r}: the images of split {split!r} do not suit "
                f"{type(self._processor).__name__}: {error}"
            ) from error
        return {"pixel_values": torch.cat(pixels)}, torch.from_numpy(self._data.labels[split])


def _channels(processor: Any) -> int | None:
    """Number of channels that the processor normalizes, where it says so."""
    mean = getattr(processor, "image_mean", None)
    return len(mean) if getattr(processor, "do_normalize", False) and mean is not None else None


def _fit(image: Any, channels: int | None) -> NDArray[Any]:
    """An image as an array ``(H, W, C)``, grey or in colour as the model needs it."""
    if not isinstance(image, np.ndarray):
        mode = {1: "L", 3: "RGB"}.get(channels or len(image.getbands()), "RGB")
        image = np.asarray(image.convert(mode))
    if image.ndim == 2:
        image = image[..., None]
    if channels == 3 and image.shape[-1] == 1:
        image = np.repeat(image, 3, axis=-1)
    return np.asarray(image)


def _load_processor(source: str | Path, task: str) -> Any:
    from transformers import AutoImageProcessor

    from moofusion.weights.sources import quiet_transformers

    try:
        with quiet_transformers():
            return AutoImageProcessor.from_pretrained(source)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"task {task!r}: no image processor in {source}: {error}; add its "
            "preprocessor_config.json, or name another processor"
        ) from error
