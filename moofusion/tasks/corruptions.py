"""Corrupted pictures: robustness as a task of its own."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.tasks.data import LabelledData

__all__ = ["CORRUPTIONS", "corrupt", "corrupted"]

Image = NDArray[np.uint8]


def _noise(x: Image, c: float, rng: np.random.Generator) -> Any:
    return x / 255 + rng.normal(0, c, x.shape)


def _impulse(x: Image, c: float, rng: np.random.Generator) -> Any:
    drawn = rng.random(x.shape)
    return np.where(drawn < c / 2, 0.0, np.where(drawn < c, 1.0, x / 255))


def _brightness(x: Image, c: float, rng: np.random.Generator) -> Any:
    return x / 255 + c


def _contrast(x: Image, c: float, rng: np.random.Generator) -> Any:
    mean = x.mean(axis=(0, 1), keepdims=True) / 255
    return (x / 255 - mean) * c + mean


def _blur(x: Image, c: float, rng: np.random.Generator) -> Any:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x / 255, (c, c, 0), mode="nearest")


def _pixelate(x: Image, c: float, rng: np.random.Generator) -> Any:
    import PIL.Image

    image = _picture(x)
    small = image.resize([max(1, int(side * c)) for side in image.size], PIL.Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, PIL.Image.Resampling.NEAREST)).reshape(x.shape) / 255


def _jpeg(x: Image, c: float, rng: np.random.Generator) -> Any:
    import PIL.Image

    with io.BytesIO() as file:
        _picture(x).save(file, "JPEG", quality=int(c))
        return np.asarray(PIL.Image.open(file)).reshape(x.shape) / 255


def _picture(x: Image) -> Any:
    import PIL.Image

    return PIL.Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x)


_Change = Callable[[Image, float, np.random.Generator], Any]

#: Name, function, and its parameter at severity 1 to 5, as ImageNet-C has them.
_KINDS: dict[str, tuple[_Change, tuple[float, ...]]] = {
    "gaussian-noise": (_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "impulse-noise": (_impulse, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "gaussian-blur": (_blur, (1, 2, 3, 4, 6)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
}
CORRUPTIONS = tuple(_KINDS)


def corrupt(image: Any, kind: str, severity: int = 3, *, seed: int | Sequence[int] = 0) -> Image:
    """One picture, corrupted.

    Args:
        image: Array of bytes ``(H, W)`` or ``(H, W, C)``, or a picture of PIL.
        kind: One of :data:`CORRUPTIONS`.
        severity: 1 (mild) to 5, with the parameters of ImageNet-C [1]_. They were made for pictures
            of 224 x 224: on smaller ones blur is stronger than it sounds. Brightness is added to
            every channel, where ImageNet-C changes the value in HSV.
        seed: Seed of the noise.

    Returns:
        Bytes of the same shape.

    Raises:
        UnknownNameError: There is no such corruption.
        ConfigurationError: The severity is not 1 to 5.

    References:
        .. [1] Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common
           Corruptions and Perturbations, 2019.

    Example:
        >>> int(corrupt(np.zeros((2, 2), np.uint8), "brightness", 1).max())
        26
    """
    if kind not in _KINDS:
        raise UnknownNameError("corruption", kind, CORRUPTIONS)
    if severity not in range(1, 6):
        raise ConfigurationError(f"severity of {kind}: expected 1 to 5, got {severity}")
    if not isinstance(image, np.ndarray):
        image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    change, parameters = _KINDS[kind]
    pixels = image if image.ndim == 3 else image[..., None]
    found = change(pixels, parameters[severity - 1], np.random.default_rng(seed))
    result: Image = np.rint(np.clip(found, 0, 1) * 255).astype(np.uint8)
    return result.reshape(image.shape)


def corrupted(data: LabelledData, kind: str, severity: int = 3, *, seed: int = 0) -> LabelledData:
    """The same data with the pictures of search and test corrupted; train stays as it is.

    Every picture has its own noise, which depends on seed and place alone. Pictures are corrupted
    when they are asked for.

    Args:
        data: Pictures and labels.
        kind: As for :func:`corrupt`.
        severity: As for :func:`corrupt`.
        seed: Seed of the noise.

    Raises:
        UnknownNameError: There is no such corruption.
        ConfigurationError: The severity is not 1 to 5.

    Example:
        >>> data = LabelledData({"search": np.zeros((2, 4, 4), np.uint8)},
        ...                     {"search": np.array([0, 1])}, ("a", "b"))
        >>> noisy = corrupted(data, "gaussian-noise", 2)
        >>> bool((noisy.items["search"][0] != noisy.items["search"][1]).any())
        True
    """
    corrupt(np.zeros((1, 1), np.uint8), kind, severity)
    items = {
        split: found if split == "train" else _Corrupted(found, kind, severity, seed)
        for split, found in data.items.items()
    }
    return LabelledData(items, data.labels, data.classes)


@dataclass(frozen=True)
class _Corrupted(Sequence[Image]):
    items: Any
    kind: str
    severity: int
    seed: int

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            indices = range(len(self))[place]
            return [
                self._one(image, index)
                for image, index in zip(self.items[place], indices, strict=True)
            ]
        return self._one(self.items[place], range(len(self))[place])

    def _one(self, image: Any, index: int) -> Image:
        return corrupt(image, self.kind, self.severity, seed=[self.seed, index])
