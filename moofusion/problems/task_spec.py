"""What a problem file may say of a task, one class for each kind of task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moofusion.tasks.base import Task
from moofusion.tasks.data import LabelledData

if TYPE_CHECKING:
    from moofusion.problems.spec import ProblemSpec
    from moofusion.tasks import ClassificationTask, LanguageModeling

__all__ = ["BASE_KINDS", "TASK_KINDS", "Table", "TaskSpec"]


class Table(BaseModel):
    """A table of a problem file: no unknown keys, no later changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Objective(Table):
    """What all tasks share."""

    name: str
    head: str | None = None

    def build(self, spec: ProblemSpec) -> Task:
        """The task."""
        raise NotImplementedError


class _Source(_Objective):
    """Where the data of a task comes from."""

    data: str
    config: str | None = None
    splits: dict[str, str] | None = None
    holdout: int | None = Field(default=None, ge=1)
    samples: dict[str, int] | None = None
    batch_size: int | None = Field(default=None, ge=1)

    def _where(self) -> dict[str, Any]:
        return {
            "splits": self.splits,
            "name": self.config,
            "holdout": self.holdout,
            "samples": self.samples,
        }


class _TaskSpec(_Source):
    """What tasks with labelled data share."""

    label: str = "label"
    objective: Literal["accuracy", "macro_f1", "loss", "ece"] = "accuracy"

    def _options(self) -> dict[str, Any]:
        size = {} if self.batch_size is None else {"batch_size": self.batch_size}
        return {"objective": self.objective, "head": self.head, **size}

    def _read(self, spec: ProblemSpec, column: str | list[str]) -> LabelledData:
        from moofusion.tasks import read_labelled

        return read_labelled(
            spec.locate(self.data),
            column=column,
            label=self.label,
            **self._where(),
        )


class _PictureSpec(_TaskSpec):
    """What tasks on pictures share."""

    column: str = "image"
    processor: str | None = None
    corruption: str | None = None
    severity: int = Field(default=3, ge=1, le=5)

    def _pictures(self, spec: ProblemSpec) -> LabelledData:
        from moofusion.tasks import corrupted

        data = self._read(spec, self.column)
        return corrupted(data, self.corruption, self.severity) if self.corruption else data


class ImageTaskSpec(_PictureSpec):
    """Image classification."""

    kind: Literal["image-classification"]

    def build(self, spec: ProblemSpec) -> Task:
        """The task; its processor is the base's unless another is named."""
        from moofusion.tasks import ImageClassification
        from moofusion.weights.sources import find_folder

        data = self._pictures(spec)
        processor = find_folder(
            spec.locate(self.processor or spec.pool.base), role=f"processor of task {self.name!r}"
        )
        return ImageClassification(self.name, data, processor=processor, **self._options())


class TextTaskSpec(_TaskSpec):
    """Text classification."""

    kind: Literal["text-classification"]
    column: str | list[str] = "text"
    tokenizer: str | None = None
    max_length: int = Field(default=128, ge=1)

    def build(self, spec: ProblemSpec) -> Task:
        """The task; its tokenizer is the base's unless another is named."""
        from moofusion.tasks import TextClassification

        return TextClassification(
            self.name,
            self._read(spec, self.column),
            tokenizer=_tokenizer(self, spec),
            max_length=self.max_length,
            **self._options(),
        )


class ZeroShotTaskSpec(_PictureSpec):
    """Image classification by a CLIP model, its head made from the names of the classes."""

    kind: Literal["zero-shot-classification"]
    clip: str | None = None
    prompts: str | None = None
    templates: list[str] | None = None
    class_names: list[str] | None = None

    def build(self, spec: ProblemSpec) -> Task:
        """The task; processor and text tower are the base's unless others are named."""
        from moofusion.tasks import Prompts, ZeroShotClassification
        from moofusion.weights.sources import find_folder

        role, source = f"text tower of task {self.name!r}", self.clip or spec.pool.base
        pickled = spec.pool.allow_pickle
        clip = find_folder(spec.locate(source), role=role, allow_pickle=pickled)
        if self.templates and self.class_names:
            prompts = Prompts(tuple(self.class_names), tuple(self.templates))
        else:
            prompts = Prompts.shipped(self.prompts or self.name).replaced(
                self.class_names, self.templates
            )
        processor = spec.locate(self.processor or source)
        return ZeroShotClassification(
            self.name,
            self._pictures(spec),
            clip=clip,
            prompts=prompts,
            allow_pickle=pickled,
            processor=find_folder(processor, role=f"processor of task {self.name!r}"),
            **self._options(),
        )


class _LanguageSpec(_Source):
    """What tasks of causal language models share."""

    tokenizer: str | None = None

    def _rows(self, spec: ProblemSpec, *columns: str) -> dict[str, list[tuple[Any, ...]]]:
        from moofusion.tasks import read_columns

        return read_columns(spec.locate(self.data), columns, **self._where())

    def _shared(self, spec: ProblemSpec) -> dict[str, Any]:
        size = {} if self.batch_size is None else {"batch_size": self.batch_size}
        return {"tokenizer": _tokenizer(self, spec), "head": self.head, **size}


def _tokenizer(task: TextTaskSpec | _LanguageSpec | HarnessSpec, spec: ProblemSpec) -> Path:
    """Folder of the tokenizer: the base's unless another is named."""
    from moofusion.weights.sources import find_folder

    source = spec.locate(task.tokenizer or spec.pool.base)
    return find_folder(source, role=f"tokenizer of task {task.name!r}")


class LanguageModelingSpec(_LanguageSpec):
    """Perplexity or bits per byte of a text."""

    kind: Literal["language-modeling"]
    column: str = "text"
    context: int = Field(default=256, ge=2)
    objective: Literal["bits_per_byte", "perplexity", "loss"] = "bits_per_byte"

    def build(self, spec: ProblemSpec) -> Task:
        """The task; its tokenizer is the base's unless another is named."""
        from moofusion.tasks import LanguageModeling

        rows = self._rows(spec, self.column)
        # Files of lines hold empty ones.
        texts = {split: [text for (text,) in found if text] for split, found in rows.items()}
        options = self._shared(spec) | {"context": self.context, "objective": self.objective}
        return LanguageModeling(self.name, texts, **options)


class MultipleChoiceSpec(_LanguageSpec):
    """Questions answered by the most likely choice."""

    kind: Literal["multiple-choice"]
    prompt: str = "question"
    choices: str = "choices"
    answer: str = "answer"
    template: str = "{}"
    max_length: int = Field(default=512, ge=2)
    objective: Literal["accuracy", "accuracy_norm", "loss"] = "accuracy"

    def build(self, spec: ProblemSpec) -> Task:
        """The task; its tokenizer is the base's unless another is named."""
        from moofusion.tasks import MultipleChoice
        from moofusion.tasks.multiple_choice import as_question

        rows = self._rows(spec, self.prompt, self.choices, self.answer)
        questions = {
            split: [as_question(self.name, self.template, *row) for row in found]
            for split, found in rows.items()
        }
        options = self._shared(spec) | {"max_length": self.max_length, "objective": self.objective}
        return MultipleChoice(self.name, questions, **options)


class GenerationSpec(_LanguageSpec):
    """Answers written token by token."""

    kind: Literal["generation"]
    prompt: str = "question"
    answer: str = "answer"
    template: str = "{}"
    pattern: str | None = None
    max_new_tokens: int = Field(default=64, ge=1)
    objective: Literal["exact_match", "tokens"] = "exact_match"

    def build(self, spec: ProblemSpec) -> Task:
        """The task; its tokenizer is the base's unless another is named."""
        from moofusion.tasks import Generation

        rows = self._rows(spec, self.prompt, self.answer)
        examples = {
            split: [(self.template.replace("{}", str(p)), str(a)) for p, a in found]
            for split, found in rows.items()
        }
        options = self._shared(spec) | {"pattern": self.pattern, "objective": self.objective}
        return Generation(self.name, examples, max_new_tokens=self.max_new_tokens, **options)


class _Documents(Table):
    """How many documents of the harness are for search and for test."""

    search: int = Field(ge=1)
    test: int | None = Field(default=None, ge=0)


class HarnessSpec(_Objective):
    """A task of the lm-evaluation-harness."""

    kind: Literal["harness"]
    samples: _Documents
    task: str | None = None
    include: str | None = None
    objective: str = "acc"
    few_shot: int | None = Field(default=None, ge=0)
    tokenizer: str | None = None
    max_length: int | None = Field(default=None, ge=2)
    batch_size: int = Field(default=8, ge=1)

    def build(self, spec: ProblemSpec) -> Task:
        """The task; its tokenizer is the base's unless another is named."""
        from moofusion.tasks import HarnessTask

        return HarnessTask(
            self.name,
            task=self.task,
            tokenizer=_tokenizer(self, spec),
            search=self.samples.search,
            test=self.samples.test,
            metric=self.objective,
            folder=None if self.include is None else spec.locate(self.include),
            few_shot=self.few_shot,
            batch_size=self.batch_size,
            max_length=self.max_length,
            head=self.head,
        )


class _AgainstBaseSpec(_Objective):
    """What objectives share that compare the merge with the base of the pool."""

    def _against(self, spec: ProblemSpec) -> dict[str, Any]:
        return {
            "base": spec.locate(spec.pool.base),
            "head": self.head,
            "allow_pickle": spec.pool.allow_pickle,
        }


class BaseDistanceSpec(_AgainstBaseSpec):
    """How far the weights are from the base's."""

    kind: Literal["base-distance"]

    def build(self, spec: ProblemSpec) -> Task:
        """The objective."""
        from moofusion.tasks import BaseDistance

        return BaseDistance(self.name, **self._against(spec))


class SparsitySpec(_AgainstBaseSpec):
    """How many weights stay as in the base."""

    kind: Literal["sparsity"]
    tolerance: float = Field(default=1e-7, ge=0)

    def build(self, spec: ProblemSpec) -> Task:
        """The objective."""
        from moofusion.tasks import Sparsity

        return Sparsity(self.name, tolerance=self.tolerance, **self._against(spec))


_WithPredictions = ImageTaskSpec | TextTaskSpec | ZeroShotTaskSpec | LanguageModelingSpec


class ForgettingSpec(_AgainstBaseSpec):
    """How far the predictions are from the base's, on data of the base."""

    kind: Literal["forgetting"]
    on: _WithPredictions = Field(discriminator="kind")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, table: Any) -> Any:
        """The data goes by the objective's name, which it need not repeat."""
        if isinstance(table, dict) and "name" in table and isinstance(table.get("on"), dict):
            return table | {"on": {"name": table["name"]} | table["on"]}
        return table

    def build(self, spec: ProblemSpec) -> Task:
        """The objective."""
        from moofusion.tasks import Forgetting

        # Every kind that `on` may have builds one of the two.
        data = cast("LanguageModeling | ClassificationTask", self.on.build(spec))
        return Forgetting(self.name, data=data, **self._against(spec))


_Kinds = (
    ImageTaskSpec
    | TextTaskSpec
    | ZeroShotTaskSpec
    | LanguageModelingSpec
    | MultipleChoiceSpec
    | GenerationSpec
    | HarnessSpec
    | BaseDistanceSpec
    | SparsitySpec
    | ForgettingSpec
)
TaskSpec = Annotated[_Kinds, Field(discriminator="kind")]

#: Values of ``kind``, and what may be said of each.
TASK_KINDS = {get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in get_args(_Kinds)}

#: Those that compare with the base and belong to no expert.
BASE_KINDS = tuple(k for k, kind in TASK_KINDS.items() if issubclass(kind, _AgainstBaseSpec))
