"""Generation: answers written token by token, right or wrong, long or short."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moofusion.errors import ConfigurationError, DataError
from moofusion.tasks.base import Measurement, Metric
from moofusion.tasks.language import LanguageTask

__all__ = ["Generation"]

EXACT_MATCH = Metric("exact_match", "max", best=1.0, worst=1.0, percent=True)
TOKENS = Metric("tokens", "min")


class Generation(LanguageTask):
    """Exact match and length of greedily generated answers: accuracy against token cost.

    ``exact_match`` is the share of answers that equal the reference, ``tokens`` the mean number of
    generated tokens, the end token included. Two tasks on the same data, one with each objective,
    put both on the front; each generates for itself. There is no differentiable loss.

    Args:
        name: Name of the task.
        examples: For each split pairs of a prompt and its right answer.
        max_new_tokens: Longest answer.
        pattern: Regular expression with one group; the group of its last match in the generated
            text is the answer (for example ``r"#### (-?[0-9]+)"``), and of the reference if it
            matches there. Without it the whole text is,
            blanks at both ends left out.
        **options: Passed to :class:`LanguageTask`; `objective` is ``"exact_match"`` (default) or
            ``"tokens"``.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
        >>> words = Tokenizer(models.WordLevel({"</s>": 0, "one": 1, "two": 2}, "</s>"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=4, n_layer=1, n_head=1,
        ...                                    bos_token_id=0, eos_token_id=0))
        >>> examples = {"search": [("one", "two")]}
        >>> task = Generation("count", examples, tokenizer=tokenizer, max_new_tokens=4)
        >>> 1 <= task.evaluate(model, "search").metrics["tokens"] <= 4
        True
    """

    metrics = (EXACT_MATCH, TOKENS)

    def __init__(
        self,
        name: str,
        examples: Mapping[str, Sequence[tuple[str, str]]],
        *,
        max_new_tokens: int = 64,
        pattern: str | None = None,
        **options: Any,
    ) -> None:
        if max_new_tokens < 1:
            raise ConfigurationError(f"task {name!r}: max_new_tokens must be positive")
        try:
            self._pattern = None if pattern is None else re.compile(pattern)
        except re.error as error:
            raise ConfigurationError(
                f"task {name!r}: pattern {pattern!r} is no regular expression: {error}"
            ) from error
        if self._pattern is not None and self._pattern.groups != 1:
            raise ConfigurationError(
                f"task {name!r}: pattern {pattern!r} has {self._pattern.groups} groups, expected "
                "one, around the answer"
            )
        super().__init__(name, examples, **options)
        self.max_new_tokens = max_new_tokens

    def _encode(self, split: str) -> dict[str, Tensor]:
        rows = [self.start_of(prompt) for prompt, _ in self._items[split]]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._padding(), dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for row, tokens in enumerate(rows):
            ids[row, longest - len(tokens) :] = torch.tensor(tokens)
            mask[row, longest - len(tokens) :] = 1
        return {"ids": ids, "mask": mask}

    def start_of(self, prompt: str) -> list[int]:
        """Tokens of a prompt as the tokenizer frames it."""
        ids: list[int] = self.tokenizer(prompt)["input_ids"]
        if not ids:
            raise DataError(f"task {self.name!r}: prompt {prompt!r} has no token")
        return ids

    def _padding(self) -> int:
        tokenizer = self.tokenizer
        pad = tokenizer.pad_token_id
        pad = tokenizer.eos_token_id if pad is None else pad
        return 0 if pad is None else int(pad)

    def generate(self, module: nn.Module, split: str) -> list[list[int]]:
        """Generated tokens of every example, up to and with the end token."""
        from transformers import GenerationConfig

        if not hasattr(module, "generate"):
            raise ConfigurationError(
                f"task {self.name!r}: {type(module).__name__} cannot generate; expected a causal "
                "language model of transformers"
            )
        model: Any = module
        ends = _ends(model, self.tokenizer)
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self._padding(),
            eos_token_id=ends or None,
        )
        data, answers = self.data(split), []
        for start in range(0, len(data["ids"]), self.batch_size):
            ids, mask = (data[key][start : start + self.batch_size] for key in ("ids", "mask"))
            used = int(mask.any(dim=0).int().argmax())
            ids, mask = ids[:, used:], mask[:, used:]
            with torch.inference_mode():
                out = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            for row in out[:, ids.shape[1] :].tolist():
                end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
                answers.append(row[:end])
        return answers

    def evaluate(self, module: nn.Module, split: str) -> Measurement:
        """Exact match and mean number of tokens over a whole split."""
        answers, examples = self.generate(module, split), self._items[split]
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in answers]
        hits = sum(
            self.answer(text) == (self.answer(right) or right.strip())
            for text, (_, right) in zip(texts, examples, strict=True)
        )
        count = len(examples)
        return Measurement(
            {"exact_match": hits / count, "tokens": sum(map(len, answers)) / count}, count
        )

    def answer(self, text: str) -> str | None:
        """The answer within a generated text; None where the pattern finds none."""
        if self._pattern is None:
            return text.strip()
        found = self._pattern.findall(text)
        return str(found[-1]).strip() if found else None

    def _settings(self) -> tuple[Any, ...]:
        answers = [(right, split) for split, rows in self._items.items() for _, right in rows]
        pattern = self._pattern.pattern if self._pattern else None
        return (self.batch_size, self.max_new_tokens, pattern, answers)


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Tokens at which an answer ends: the model's own, else the tokenizer's."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = tokenizer.eos_token_id if found is None else found
    return (
        [] if found is None else [int(t) for t in (found if isinstance(found, list) else [found])]
    )
