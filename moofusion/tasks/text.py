"""Text classification: texts tokenized once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moofusion.errors import DataError
from moofusion.tasks.classification import ClassificationTask
from moofusion.tasks.data import LabelledData

__all__ = ["TextClassification"]


class TextClassification(ClassificationTask):
    """Classification of texts.

    Args:
        name: Name of the task.
        data: Texts and labels (see :func:`moofusion.tasks.read_labelled`).
        tokenizer: Tokenizer, or the folder or hub id it is loaded from. Without a padding token
            the end-of-sequence token serves.
        max_length: Longest sequence in tokens; longer texts are cut.
        **options: Passed to :class:`ClassificationTask`.

    Example:
        >>> import numpy as np
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import PreTrainedTokenizerFast
        >>> words = Tokenizer(models.WordLevel({"[PAD]": 0, "good": 1, "bad": 2}, "[PAD]"))
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
        >>> texts, labels = {"search": ["good", "bad"]}, {"search": np.array([1, 0])}
        >>> data = LabelledData(texts, labels, ("-", "+"))
        >>> task = TextClassification("reviews", data, tokenizer=tokenizer)
        >>> task.data("search")[0]["input_ids"].flatten()
        tensor([1, 2])
    """

    def __init__(
        self,
        name: str,
        data: LabelledData,
        *,
        tokenizer: str | Path | Any,
        max_length: int = 128,
        **options: Any,
    ) -> None:
        options.setdefault("batch_size", 32)
        super().__init__(name, classes=data.classes, splits=data.sizes, **options)
        self._data = data
        self._tokenizer = tokenizer
        self.max_length = max_length

    def _tensors(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        if isinstance(self._tokenizer, str | Path):
            self._tokenizer = _load_tokenizer(self._tokenizer, self.name)
        if self._tokenizer.pad_token is None:
            if self._tokenizer.eos_token is None:
                raise DataError(
                    f"task {self.name!r}: the tokenizer has neither a padding nor an "
                    "end-of-sequence token; set its pad_token"
                )
            self._tokenizer.pad_token = self._tokenizer.eos_token
        encoded = self._tokenizer(
            list(self._data.items[split]),
            truncation=True,
            max_length=self.max_length,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        return dict(encoded), torch.from_numpy(self._data.labels[split])


def _load_tokenizer(source: str | Path, task: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"task {task!r}: no tokenizer in {source}: {error}; add its tokenizer files, or name "
            "another tokenizer"
        ) from error
