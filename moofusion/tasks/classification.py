"""Classification with a frozen head: data resident on the device, metrics in one pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from moofusion.errors import ConfigurationError, DataError
from moofusion.tasks.base import ACCURACY, ECE, LOSS, MACRO_F1, SPLITS, Measurement, Task
from moofusion.weights.vectors import tensor_bytes

__all__ = ["ClassificationTask", "TensorClassification"]

_BINS = 15  # of confidence


class ClassificationTask(Task):
    """Accuracy, macro-F1, cross-entropy and calibration of a classifier over a whole split.

    ``ece`` is the expected calibration error of the predicted class (Guo et al. 2017, equation 3):
    the mean distance of confidence and accuracy in 15 bins of equal width, weighted by their size.

    Args:
        name: Name of the task.
        classes: Class names in label order.
        splits: Names of the splits that exist.
        objective: ``"accuracy"`` (default), ``"macro_f1"``, ``"loss"`` or ``"ece"``.
        head: Module of the pool that carries the head.
        batch_size: Samples per forward pass; affects speed and memory only.
        forward: ``forward(module, inputs) -> logits`` where the module is called differently from
            transformers' ``module(**inputs).logits``.

    Subclasses say how a split becomes tensors (:meth:`_tensors`). It is done once per split, at
    first use. Sequences with an attention mask are sorted by length, and batches trimmed to
    their longest.

    Example:
        >>> class Signs(ClassificationTask):
        ...     def _tensors(self, split):
        ...         x = torch.linspace(-1, 1, self.n_samples(split))[:, None]
        ...         return {"input": x}, (x[:, 0] > 0).long()
        >>> task = Signs("signs", classes=("minus", "plus"), splits={"search": 10})
        >>> guess = torch.nn.Linear(1, 2, bias=False)
        >>> _ = guess.weight.data.copy_(torch.tensor([[-1.0], [1.0]]))
        >>> task.evaluate(guess, "search").metrics["accuracy"]
        1.0
    """

    metrics = (ACCURACY, MACRO_F1, LOSS, ECE)

    def __init__(
        self,
        name: str,
        *,
        classes: tuple[str, ...],
        splits: Mapping[str, int],
        objective: str | None = None,
        head: str | None = None,
        batch_size: int = 125,
        forward: Callable[[nn.Module, dict[str, Tensor]], Tensor] | None = None,
    ) -> None:
        super().__init__(name, objective=objective, head=head)
        if batch_size < 1:
            raise ConfigurationError(f"task {name!r}: batch_size must be positive")
        self.classes = classes
        self.batch_size = batch_size
        self._sizes = dict(splits)
        self._forward = forward or _forward
        self._device = torch.device("cpu")
        self._resident: dict[str, tuple[dict[str, Tensor], Tensor]] = {}

    @abstractmethod
    def _tensors(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs and labels of a split, as CPU tensors with N rows."""

    def __getstate__(self) -> dict[str, Any]:
        # Preprocessed tensors are made again where the copy lives.
        return self.__dict__ | {"_resident": {}, "_device": torch.device("cpu")}

    def has_split(self, split: str) -> bool:
        """Whether the task holds data for `split`."""
        return split in self._sizes

    def n_samples(self, split: str) -> int:
        """Number of samples of `split`."""
        self.require(split)
        return self._sizes[split]

    def prepare(self, device: torch.device) -> None:
        """Move to `device`; splits are preprocessed there when first needed."""
        if device != self._device:
            self._resident.clear()
        self._device = device

    def data(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        """Preprocessed inputs and labels of `split`, resident on the device.

        Raises:
            DataError: The split is missing or empty, inputs and labels differ in number, or a
                label lies outside of the classes.
        """
        if split not in self._resident:
            # Tensors born in inference mode could not serve the gradient methods later.
            with torch.inference_mode(False):
                self._resident[split] = self._load(split)
        return self._resident[split]

    def _load(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        if self.n_samples(split) == 0:
            raise DataError(f"task {self.name!r}: split {split!r} is empty")
        inputs, labels = self._tensors(split)
        for key, value in inputs.items():
            if len(value) != len(labels):
                raise DataError(
                    f"task {self.name!r}, split {split!r}: {len(value)} rows of {key}, but "
                    f"{len(labels)} labels"
                )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(
                f"task {self.name!r}, split {split!r}: labels run from {low} to {high}, "
                f"expected 0 to {len(self.classes) - 1} for {len(self.classes)} classes"
            )
        if "attention_mask" in inputs:
            order = torch.argsort(inputs["attention_mask"].sum(1), stable=True)
            inputs, labels = {k: v[order] for k, v in inputs.items()}, labels[order]
        return {k: v.to(self._device) for k, v in inputs.items()}, labels.to(self._device)

    def batches(self, split: str) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Batches of a split in their fixed order; views of the resident tensors."""
        inputs, labels = self.data(split)
        for start in range(0, len(labels), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield _trim({key: value[part] for key, value in inputs.items()}), labels[part]

    def logits(self, module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Class scores ``(B, C)``.

        Raises:
            ConfigurationError: The head has another number of classes than the data.
        """
        scores = self._forward(module, inputs)
        if not isinstance(scores, Tensor):
            raise ConfigurationError(
                f"task {self.name!r} is measured with {type(module).__name__}, which gives no "
                "class scores; name the expert whose head it shall use (head = ...)"
            )
        if scores.shape[-1] != len(self.classes):
            raise ConfigurationError(
                f"task {self.name!r} has {len(self.classes)} classes, but its head "
                f"({self.head or self.name!r}) gives {scores.shape[-1]} scores; choose the head "
                "that was trained for these classes"
            )
        return scores

    def evaluate(self, module: nn.Module, split: str) -> Measurement:
        """Accuracy, macro-F1, mean cross-entropy and calibration of a split, in one pass."""
        n_classes, total = len(self.classes), self.n_samples(split)
        with torch.inference_mode():
            loss = torch.zeros((), dtype=torch.float64, device=self._device)
            confusion = torch.zeros(n_classes**2, dtype=torch.int64, device=self._device)
            gaps = torch.zeros(_BINS, dtype=torch.float64, device=self._device)
            for inputs, labels in self.batches(split):
                scores = self.logits(module, inputs).float()
                loss += functional.cross_entropy(scores, labels, reduction="sum")
                guesses = scores.argmax(dim=-1)
                _add_gaps(gaps, scores, guesses == labels)
                pairs = labels * n_classes + guesses
                confusion += torch.bincount(pairs, minlength=n_classes**2)
            counts = confusion.view(n_classes, n_classes).cpu().numpy()
            mean_loss, ece = float(loss) / total, float(gaps.abs().sum()) / total
        return Measurement(
            {
                "accuracy": float(np.trace(counts)) / total,
                "macro_f1": _macro_f1(counts),
                "loss": mean_loss,
                # NaN scores fall into some bin; the loss tells that the model failed.
                "ece": ece,
            },
            total,
        )

    def loss(
        self, module: nn.Module, split: str, indices: NDArray[np.int64] | None = None
    ) -> Tensor:
        """Mean cross-entropy over the samples `indices` of `split`, with a graph."""
        inputs, labels = self.data(split)
        if indices is not None:
            rows = torch.as_tensor(indices, device=self._device)
            inputs, labels = {k: v[rows] for k, v in inputs.items()}, labels[rows]
        return functional.cross_entropy(self.logits(module, _trim(inputs)).float(), labels)

    def fingerprint(self, split: str) -> str:
        """Hash of the preprocessed tensors and labels."""
        inputs, labels = self.data(split)
        digest = xxhash.xxh3_128(f"{self.name}:{self.batch_size}:{self.classes}".encode())
        for key in sorted(inputs):
            digest.update(key.encode())
            digest.update(tensor_bytes(inputs[key]))
        digest.update(tensor_bytes(labels))
        return digest.hexdigest()


def _add_gaps(gaps: Tensor, scores: Tensor, right: Tensor) -> None:
    """Add confidence minus correctness of every sample to the bin ``(b-1, b]`` it lies in."""
    confidence = scores.softmax(dim=-1).amax(dim=-1).double()
    bins = torch.nan_to_num(confidence * _BINS).ceil().long().clamp(1, _BINS) - 1
    gaps.index_add_(0, bins, confidence - right.double())


class TensorClassification(ClassificationTask):
    """Classification of tensors that are ready to go into the model.

    Args:
        name: Name of the task.
        data: For each split the inputs (a tensor, or a dict of keyword arguments) and the labels.
        classes: Class names in label order, or their number.
        **options: Passed to :class:`ClassificationTask`.

    Example:
        >>> x, y = torch.randn(8, 4), torch.arange(8) % 2
        >>> task = TensorClassification("parity", {"search": (x, y)}, classes=2)
        >>> task.evaluate(nn.Linear(4, 2), "search").n_samples
        8
    """

    def __init__(
        self,
        name: str,
        data: Mapping[str, tuple[Tensor | Mapping[str, Tensor], Tensor]],
        *,
        classes: tuple[str, ...] | int,
        **options: Any,
    ) -> None:
        unknown = set(data) - set(SPLITS)
        if unknown:
            raise DataError(f"task {name!r}: unknown splits {sorted(unknown)}; known: {SPLITS}")
        if isinstance(classes, int):
            classes = tuple(str(i) for i in range(classes))
        sizes = {split: len(labels) for split, (_, labels) in data.items()}
        super().__init__(name, classes=classes, splits=sizes, **options)
        self._data = {
            split: ({"input": x} if isinstance(x, Tensor) else dict(x), y.long())
            for split, (x, y) in data.items()
        }

    def _tensors(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        return self._data[split]


def _forward(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Call a transformers model by keywords, any other module with its one input."""
    result = module(inputs["input"]) if "input" in inputs else module(**inputs)
    scores: Tensor = getattr(result, "logits", result)
    return scores


def _trim(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cut off the padding columns on the right that no sequence of the batch reaches."""
    if "attention_mask" not in inputs:
        return inputs
    mask = inputs["attention_mask"]
    used = mask.any(dim=0).nonzero()
    longest = int(used[-1]) + 1 if len(used) else 1
    return {
        key: value[:, :longest] if value.shape[:2] == mask.shape[:2] else value
        for key, value in inputs.items()
    }


def _macro_f1(counts: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that occur among labels or predictions, as scikit-learn has it."""
    true, found, hit = counts.sum(1), counts.sum(0), np.diag(counts)
    present = (true + found) > 0
    return float(np.mean(2 * hit[present] / (true + found)[present]))
