"""Text classification: texts tokenized once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moofusion.errors import DataError
from moofusion.tasks.classification import ClassificationTask
from moofusion.tasks.data import LabelledData

__all__ = ["TextClassification", "load_tokenizer"]


class TextClassification(ClassificationTask):
    """Classification of texts.

    Args:
        name: Name of the task.
        data: Texts, or pairs of texts, and labels (see :func:`moofusion.tasks.read_labelled`).
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
            self._tokenizer = load_tokenizer(self._tokenizer, self.name)
        if self._tokenizer.pad_token is None:
            if self._tokenizer.eos_token is None:
                raise DataError(
                    f"task {self.name!r}: the tokenizer has neither a padding nor an "
                    "end-of-sequence token; set its pad_token"
                )
            self._tokenizer.pad_token = self._tokenizer.eos_token
        items = self._data.items[split]
        texts = zip(*items, strict=True) if isinstance(items[0], tuple) else [items]
        encoded = self._tokenizer(
            *(list(column) for column in texts),
            truncation=True,
            max_length=self.max_length,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        return dict(encoded), torch.from_numpy(self._data.labels[split])

    def logits(self, module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Class scores ``(B, C)``."""
        config: Any = getattr(module, "config", None)
        if config is not None and getattr(config, "pad_token_id", 0) is None:
            # Decoders look for the last token that is no padding, and older checkpoints of them
            # do not say what padding is.
            tokenizer: Any = self._tokenizer
            config.pad_token_id = tokenizer.pad_token_id
        return super().logits(module, inputs)


def load_tokenizer(source: str | Path, task: str) -> Any:
    """Tokenizer of a folder or hub id.

    Raises:
        DataError: There is none.
    """
    from transformers import AutoTokenizer

    from moofusion.weights.sources import TOKENIZER_FILES

    # Without files some classes of transformers begin with an empty vocabulary, silently.
    folder = Path(source)
    if folder.is_dir() and not any((folder / file).exists() for file in TOKENIZER_FILES):
        raise DataError(
            f"task {task!r}: no tokenizer in {source}: none of {', '.join(TOKENIZER_FILES)} is "
            "there; add its tokenizer files, or name another tokenizer"
        )
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"task {task!r}: no tokenizer in {source}: {error}; add its tokenizer files, or name "
            "another tokenizer"
        ) from error
