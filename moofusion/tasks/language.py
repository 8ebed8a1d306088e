"""Language modelling: how well a causal model predicts a text, and what such tasks share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from moofusion.errors import ConfigurationError, DataError
from moofusion.tasks.base import LOSS, SPLITS, Measurement, Metric, Task
from moofusion.weights.vectors import tensor_bytes

__all__ = ["LanguageModeling", "LanguageTask", "token_losses", "token_scores"]

PERPLEXITY = Metric("perplexity", "min")
BITS_PER_BYTE = Metric("bits_per_byte", "min")


class LanguageTask(Task):
    """What tasks of causal language models share: texts, a tokenizer, tensors on the device.

    Args:
        name: Name of the task.
        items: For each split its items.
        tokenizer: Tokenizer, or the folder or hub id it is loaded from.
        batch_size: Sequences per forward pass; affects speed and memory only.
        objective: Name of the metric that is optimized.
        head: Module of the pool that carries the head; language models need none.

    Subclasses say how a split becomes tensors (:meth:`_encode`), once per split at first use.

    Example:
        >>> from moofusion.tasks import Generation, LanguageModeling, MultipleChoice
        >>> all(issubclass(t, LanguageTask) for t in (Generation, LanguageModeling, MultipleChoice))
        True
    """

    def __init__(
        self,
        name: str,
        items: Mapping[str, Sequence[Any]],
        *,
        tokenizer: str | Path | Any,
        batch_size: int = 8,
        objective: str | None = None,
        head: str | None = None,
    ) -> None:
        super().__init__(name, objective=objective, head=head)
        unknown = set(items) - set(SPLITS)
        if unknown:
            raise DataError(f"task {name!r}: unknown splits {sorted(unknown)}; known: {SPLITS}")
        if batch_size < 1:
            raise ConfigurationError(f"task {name!r}: batch_size must be positive")
        self._items = {split: list(found) for split, found in items.items()}
        for split, found in self._items.items():
            if not found:
                raise DataError(f"task {name!r}: split {split!r} is empty")
        self._tokenizer = tokenizer
        self.batch_size = batch_size
        self._device = torch.device("cpu")
        self._resident: dict[str, dict[str, Tensor]] = {}

    @abstractmethod
    def _encode(self, split: str) -> dict[str, Tensor]:
        """Everything that is measured of a split, as CPU tensors."""

    def __getstate__(self) -> dict[str, Any]:
        # Tensors are made again where the copy lives.
        return self.__dict__ | {"_resident": {}, "_device": torch.device("cpu")}

    def has_split(self, split: str) -> bool:
        """Whether the task holds data for `split`."""
        return split in self._items

    def n_samples(self, split: str) -> int:
        """Number of items of `split`."""
        self.require(split)
        return len(self._items[split])

    def prepare(self, device: torch.device) -> None:
        """Move to `device`; splits are encoded there when first needed."""
        if device != self._device:
            self._resident.clear()
        self._device = device

    def data(self, split: str) -> dict[str, Tensor]:
        """Encoded split, resident on the device."""
        self.require(split)
        if split not in self._resident:
            # Tensors born in inference mode could not serve the gradient methods later.
            with torch.inference_mode(False):
                encoded = self._encode(split)
                self._resident[split] = {k: v.to(self._device) for k, v in encoded.items()}
        return self._resident[split]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded if need be."""
        if isinstance(self._tokenizer, str | Path):
            from moofusion.tasks.text import load_tokenizer

            self._tokenizer = load_tokenizer(self._tokenizer, self.name)
        return self._tokenizer

    def tokens(self, text: str) -> list[int]:
        """Tokens of a text, without special ones."""
        # Longer than the model takes is no fault: the tasks cut what they tokenize.
        found = self.tokenizer(text, add_special_tokens=False, verbose=False)
        ids: list[int] = found["input_ids"]
        return ids

    @property
    def start(self) -> list[int]:
        """The token that stands before a text: beginning or end of text, if there is one."""
        tokenizer = self.tokenizer
        found = tokenizer.bos_token_id
        found = tokenizer.eos_token_id if found is None else found
        return [] if found is None else [found]

    def fingerprint(self, split: str) -> str:
        """Hash of the encoded split and of the settings."""
        digest = xxhash.xxh3_128(f"{type(self).__name__}{self.name}{self._settings()}".encode())
        for key, value in sorted(self.data(split).items()):
            digest.update(f"{key}{tuple(value.shape)}".encode() + tensor_bytes(value.flatten()))
        return digest.hexdigest()

    def _settings(self) -> tuple[Any, ...]:
        """What changes the measured numbers beside the encoded split."""
        return (self.batch_size,)


def token_scores(module: nn.Module, ids: Tensor) -> Tensor:
    """Scores of the next token after every token, float32, shape ``(B, T, V)``.

    Raises:
        ConfigurationError: The model gives no score for every token, or not for so many.
    """
    most = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    if most is not None and ids.shape[1] > most:
        raise ConfigurationError(
            f"sequences of {ids.shape[1]} tokens, but {type(module).__name__} was made for at most "
            f"{most}; set context or max_length to that"
        )
    # Padding stands to the right of everything that counts, where causal attention never looks.
    scores = getattr(module(input_ids=ids), "logits", None)
    if scores is None or scores.ndim != 3 or scores.shape[1] != ids.shape[1]:
        raise ConfigurationError(
            f"{type(module).__name__} gives no scores of the next token; language tasks need a "
            "causal language model (transformers' ...ForCausalLM or ...LMHeadModel)"
        )
    return scores.float()  # type: ignore[no-any-return]


def token_losses(module: nn.Module, ids: Tensor, predicted: Tensor) -> Tensor:
    """Negative log-likelihood of every predicted token, zero elsewhere, in nats.

    Args:
        module: Causal language model.
        ids: Tokens, shape ``(B, T)``, padded on the right.
        predicted: Which tokens count, shape ``(B, T)``; never the first column.

    Returns:
        Shape ``(B, T - 1)``, float32: the loss of tokens 1 to T - 1.

    """
    scores = token_scores(module, ids)[:, :-1]
    flat = cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return flat.view(ids.shape[0], -1) * predicted[:, 1:]


class LanguageModeling(LanguageTask):
    """Perplexity and bits per byte of a causal language model on a text.

    The texts of a split, each after a token that begins it, form one stream, which is cut into
    windows of `context` tokens that overlap by one: every token is predicted exactly once, from
    what stands before it in its window. ``loss`` is in nats per token, ``perplexity`` its
    exponential, ``bits_per_byte`` the whole loss in bits divided by the bytes of the text in
    UTF-8, which is comparable between tokenizers.

    Args:
        name: Name of the task.
        texts: For each split its texts.
        context: Length of a window in tokens, at most what the model was made for.
        **options: Passed to :class:`LanguageTask`; `objective` is ``"bits_per_byte"`` (default),
            ``"perplexity"`` or ``"loss"``.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
        >>> words = Tokenizer(models.WordLevel({"<s>": 0, "to": 1, "be": 2}, "<s>"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=4, n_layer=1, n_head=1))
        >>> for parameter in model.parameters():
        ...     _ = parameter.data.zero_()
        >>> task = LanguageModeling("poem", {"search": ["to be be to"]}, tokenizer=tokenizer)
        >>> round(task.evaluate(model, "search").metrics["perplexity"], 4)  # it knows nothing
        3.0
    """

    metrics = (BITS_PER_BYTE, PERPLEXITY, LOSS)

    def __init__(
        self, name: str, texts: Mapping[str, Sequence[str]], *, context: int = 256, **options: Any
    ) -> None:
        if context < 2:
            raise ConfigurationError(f"task {name!r}: context must be at least 2 tokens")
        super().__init__(name, texts, **options)
        self.context = context

    def n_samples(self, split: str) -> int:
        """Number of windows of `split`."""
        return len(self.data(split)["ids"])

    def _encode(self, split: str) -> dict[str, Tensor]:
        start, stream, size = self.start, [], 0
        for text in self._items[split]:
            stream += start + self.tokens(text)
            size += len(text.encode())
        if len(stream) < 2:
            raise DataError(
                f"task {self.name!r}: split {split!r} has no two tokens to predict from"
            )
        if not start:  # the very first token is given, so its bytes do not count
            size -= len(self.tokenizer.decode(stream[:1]).encode())
        step = self.context - 1
        count = math.ceil((len(stream) - 1) / step)
        ids = torch.zeros(count, min(self.context, len(stream)), dtype=torch.long)
        predicted = torch.zeros(ids.shape, dtype=torch.bool)
        for row in range(count):
            window = stream[row * step : row * step + self.context]
            ids[row, : len(window)] = torch.tensor(window)
            predicted[row, 1 : len(window)] = True
        return {"ids": ids, "predicted": predicted, "bytes": torch.tensor([max(size, 1)])}

    def evaluate(self, module: nn.Module, split: str) -> Measurement:
        """Loss, perplexity and bits per byte over a whole split."""
        data, total = self.data(split), 0.0
        with torch.inference_mode():
            for start in range(0, len(data["ids"]), self.batch_size):
                part = slice(start, start + self.batch_size)
                losses = token_losses(module, data["ids"][part], data["predicted"][part])
                total += float(losses.sum(dtype=torch.float64))
        mean = total / int(data["predicted"].sum())
        return Measurement(
            {
                "bits_per_byte": total / math.log(2) / int(data["bytes"]),
                "perplexity": math.exp(mean) if mean < 700 else math.inf,
                "loss": mean,
            },
            len(data["ids"]),
        )

    def loss(self, module: nn.Module, split: str, indices: NDArray[Any] | None = None) -> Tensor:
        """Mean loss per token over the windows `indices`, with a graph."""
        data = self.data(split)
        ids, predicted = data["ids"], data["predicted"]
        if indices is not None:
            rows = torch.as_tensor(indices, device=self._device)
            ids, predicted = ids[rows], predicted[rows]
        return token_losses(module, ids, predicted).sum() / predicted.sum()

    def _settings(self) -> tuple[Any, ...]:
        return (self.batch_size, self.context)
