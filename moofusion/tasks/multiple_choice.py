"""Multiple choice by likelihood: the answer that the model finds most probable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from moofusion.errors import ConfigurationError, DataError
from moofusion.tasks.base import ACCURACY, LOSS, Measurement, Metric
from moofusion.tasks.language import LanguageTask, token_losses

__all__ = ["MultipleChoice", "Question", "as_question"]

ACCURACY_NORM = Metric("accuracy_norm", "max", best=1.0, worst=1.0, percent=True)


@dataclass(frozen=True)
class Question:
    """A text, how it may go on, and which continuation is right.

    Attributes:
        prompt: What stands before the answer.
        choices: Possible continuations, at least two, none empty.
        answer: Index of the right one.

    Raises:
        DataError: Fewer than two choices, an empty one, or an answer that is none of them.

    Example:
        >>> Question("The sky is", (" blue", " seven"), 0).choices[0]
        ' blue'
    """

    prompt: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or not all(self.choices):
            raise DataError(
                f"question {self.prompt[:40]!r}: expected at least two choices, none of them "
                f"empty, got {list(self.choices)}"
            )
        if not 0 <= self.answer < len(self.choices):
            raise DataError(
                f"question {self.prompt[:40]!r}: answer {self.answer} is none of the "
                f"{len(self.choices)} choices"
            )


def as_question(task: str, template: str, prompt: Any, choices: Any, answer: Any) -> Question:
    """A row of a data set as a question.

    Args:
        task: Name of the task, for the messages.
        template: Text with ``{}`` in the place of the prompt.
        prompt: Text before the answer.
        choices: List of texts, or a table of ``text`` and ``label`` (ARC). Each is set off from the
            prompt by a blank.
        answer: Number of the right choice, its label, or its text.

    Raises:
        DataError: The choices are no list, or the answer is none of them.

    Example:
        >>> as_question("sky", "Q: {} A:", "It is", ["blue", "seven"], "0").answer
        0
    """
    labels: list[Any] = []
    if isinstance(choices, dict) and {"text", "label"} <= choices.keys():
        labels, choices = list(choices["label"]), choices["text"]
    if not isinstance(choices, list | tuple):
        raise DataError(
            f"task {task!r}: choices must be a list of texts, or a table of text and label, got "
            f"{type(choices).__name__}"
        )
    if answer in labels:
        found = labels.index(answer)
    elif answer in choices:
        found = list(choices).index(answer)
    else:
        try:
            found = int(answer)
        except (TypeError, ValueError):
            raise DataError(
                f"task {task!r}: answer {answer!r} is neither a number nor among the choices "
                f"{list(choices)}"
            ) from None
    texts = tuple(text if text[:1].isspace() else f" {text}" for text in map(str, choices))
    return Question(template.replace("{}", str(prompt)), texts, found)


class MultipleChoice(LanguageTask):
    """Questions answered by the likelihood of each choice after the prompt.

    A choice scores the sum of the log-likelihoods of its tokens. ``accuracy`` takes the highest
    score, ``accuracy_norm`` the highest per byte of the choice, ``loss`` is the cross-entropy of
    the scores, which is differentiable.
    Every choice is a sequence of its own, and costs one.

    Args:
        name: Name of the task.
        questions: For each split its questions.
        max_length: Longest sequence in tokens; of longer ones the beginning is cut.
        **options: Passed to :class:`LanguageTask`.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
        >>> words = Tokenizer(models.WordLevel({"sky": 0, "blue": 1, "seven": 2}, "sky"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
        >>> question = Question("sky", (" blue", " seven"), 0)
        >>> task = MultipleChoice("sky", {"search": [question]}, tokenizer=tokenizer)
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=4, n_layer=1, n_head=1))
        >>> task.evaluate(model, "search").n_samples
        2
    """

    metrics = (ACCURACY, ACCURACY_NORM, LOSS)

    def __init__(
        self,
        name: str,
        questions: Mapping[str, Sequence[Question]],
        *,
        max_length: int = 512,
        **options: Any,
    ) -> None:
        if max_length < 2:
            raise ConfigurationError(f"task {name!r}: max_length must be at least 2 tokens")
        super().__init__(name, questions, **options)
        self.max_length = max_length

    def _encode(self, split: str) -> dict[str, Tensor]:
        rows: list[tuple[list[int], int]] = []
        sizes, lengths, answers = [], [], []
        for question in self._items[split]:
            sizes.append(len(question.choices))
            answers.append(question.answer)
            for choice in question.choices:
                rows.append(self._row(question.prompt, choice))
                lengths.append(len(choice.encode()))
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        predicted = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, (tokens, begin) in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            predicted[row, begin : len(tokens)] = True
        return {
            "ids": ids,
            "predicted": predicted,
            "bytes": torch.tensor(lengths),
            "sizes": torch.tensor(sizes),
            "answers": torch.tensor(answers),
        }

    def _row(self, prompt: str, choice: str) -> tuple[list[int], int]:
        """Tokens of prompt and choice, and where the choice begins."""
        # Blanks at the end of a prompt belong to the next word of most tokenizers.
        text = prompt.rstrip()
        start = self.start
        whole = start + self.tokens(prompt + choice)
        begin = len(start) + len(self.tokens(text))
        cut = max(0, len(whole) - self.max_length)
        # At least one token is predicted, from at least one.
        begin = min(max(begin - cut, 1), len(whole) - cut - 1)
        if begin < 1:
            raise DataError(
                f"task {self.name!r}: prompt {prompt[:40]!r} with choice {choice!r} has less than "
                "two tokens; a tokenizer without a token that begins a text needs a prompt"
            )
        return whole[cut:], begin

    def scores(
        self, module: nn.Module, split: str, questions: Sequence[int] | NDArray[Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of questions.

        Returns:
            Log-likelihoods ``(Q, C)``, minus infinity where a question has fewer choices; the same
            per byte; and the answers ``(Q,)``.
        """
        data = self.data(split)
        sizes, ends = data["sizes"].tolist(), data["sizes"].cumsum(0).tolist()
        rows = [r for q in questions for r in range(ends[q] - sizes[q], ends[q])]
        ids, predicted = data["ids"][rows], data["predicted"][rows]
        longest = int(predicted.any(dim=0).nonzero().max()) + 1
        found = -token_losses(module, ids[:, :longest], predicted[:, :longest]).sum(dim=1)
        most = max(sizes[q] for q in questions)
        scores = found.new_full((len(questions), most), -torch.inf)
        rates = scores.clone()
        place = [(i, c) for i, q in enumerate(questions) for c in range(sizes[q])]
        where = torch.tensor(place, device=found.device).unbind(1)
        scores = scores.index_put(where, found)
        rates = rates.index_put(where, found / data["bytes"][rows])
        chosen = torch.as_tensor(list(questions), device=found.device)
        return scores, rates, data["answers"][chosen]

    def passes(
        self, split: str, indices: NDArray[Any] | None = None, *, gradient: bool = False
    ) -> tuple[int, int]:
        """A pass for every choice."""
        rows = range(self.n_samples(split)) if indices is None else indices
        count = sum(len(self._items[split][row].choices) for row in rows)
        return (0, count) if gradient else (count, 0)

    def evaluate(self, module: nn.Module, split: str) -> Measurement:
        """Both accuracies and the cross-entropy over a whole split."""
        total = self.n_samples(split)
        hits, rated, loss = 0, 0, 0.0
        with torch.inference_mode():
            for start in range(0, total, self.batch_size):
                part = range(start, min(start + self.batch_size, total))
                scores, rates, answers = self.scores(module, split, part)
                hits += int((scores.argmax(1) == answers).sum())
                rated += int((rates.argmax(1) == answers).sum())
                loss += float(cross_entropy(scores, answers, reduction="sum"))
        return Measurement(
            {"accuracy": hits / total, "accuracy_norm": rated / total, "loss": loss / total},
            self.passes(split)[0],
        )

    def loss(self, module: nn.Module, split: str, indices: NDArray[Any] | None = None) -> Tensor:
        """Mean cross-entropy of the choices over the questions `indices`, with a graph."""
        chosen = range(self.n_samples(split)) if indices is None else [int(i) for i in indices]
        scores, _, answers = self.scores(module, split, chosen)
        return cross_entropy(scores, answers)

    def _settings(self) -> tuple[Any, ...]:
        return (self.batch_size, self.max_length)
