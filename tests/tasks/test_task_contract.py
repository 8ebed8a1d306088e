"""The contract of tasks, for every task of the package."""

import numpy as np
import pytest
import tiny
import torch

from moofusion.tasks import (
    Forgetting,
    FunctionTask,
    Generation,
    ImageClassification,
    LabelledData,
    MultipleChoice,
    Question,
    Sparsity,
    TensorClassification,
    TextClassification,
)
from moofusion.testing import TaskContract


def _other(data):
    """The same items, with the labels of one class moved on."""
    classes = len(data.classes)
    labels = {split: np.where(y == 0, 1 % classes, y) for split, y in data.labels.items()}
    return LabelledData(data.items, labels, data.classes)


class TestTensorClassification(TaskContract):
    @pytest.fixture
    def task(self):
        return tiny.net_tasks(tiny.net_pool())[0]

    @pytest.fixture
    def changed_task(self):
        task = tiny.net_tasks(tiny.net_pool())[0]
        data = {s: (x["input"] + 1e-6, y) for s, (x, y) in task._data.items()}
        return TensorClassification(task.name, data, classes=3)

    @pytest.fixture
    def module(self):
        return tiny.net(1)


class TestImageClassification(TaskContract):
    @pytest.fixture
    def task(self, images, vit_folders):
        return ImageClassification("dots", images["dots"], processor=vit_folders.base)

    @pytest.fixture
    def changed_task(self, images, vit_folders):
        return ImageClassification("dots", _other(images["dots"]), processor=vit_folders.base)

    @pytest.fixture
    def module(self, vit_folders):
        from transformers import ViTForImageClassification

        return ViTForImageClassification.from_pretrained(vit_folders.experts["dots"]).eval()


class TestTextClassification(TaskContract):
    data = LabelledData(
        {split: tiny.sentences(30, seed) for seed, split in enumerate(("train", "search"))},
        {split: np.arange(30) % 3 for split in ("train", "search")},
        ("x", "y", "z"),
    )

    @pytest.fixture
    def task(self):
        return TextClassification("t", self.data, tokenizer=tiny.tokenizer())

    @pytest.fixture
    def changed_task(self):
        return TextClassification("t", _other(self.data), tokenizer=tiny.tokenizer())

    @pytest.fixture
    def module(self):
        from transformers import BertForSequenceClassification

        model = tiny.build(BertForSequenceClassification, tiny.bert_config(labels=3), 3)
        return tiny.drift(model, 4, 0.3)


class TestFunctionTask(TaskContract):
    """No data, so no `changed_task`."""

    @pytest.fixture
    def task(self):
        return FunctionTask(
            "size",
            lambda module: sum(float(p.abs().sum()) for p in module.parameters()),
            test=lambda module: max(float(p.abs().max()) for p in module.parameters()),
            direction="min",
        )

    @pytest.fixture
    def module(self):
        with torch.random.fork_rng():
            return tiny.net(2)


class TestMultipleChoice(TaskContract):
    """Questions of two to four choices: samples and passes are different numbers."""

    questions = tuple(
        Question(text, tuple(f" {c}" for c in "abcd"[: 2 + i % 3]), i % 2)
        for i, text in enumerate(tiny.sentences(9, 5))
    )

    @pytest.fixture
    def task(self):
        items = {"train": self.questions, "search": self.questions[:7]}
        return MultipleChoice("t", items, tokenizer=tiny.tokenizer())

    @pytest.fixture
    def changed_task(self):
        other = [Question(q.prompt, q.choices, 1 - q.answer) for q in self.questions]
        items = {"train": other, "search": other[:7]}
        return MultipleChoice("t", items, tokenizer=tiny.tokenizer())

    @pytest.fixture
    def module(self):
        from transformers import GPT2LMHeadModel

        return tiny.drift(tiny.build(GPT2LMHeadModel, tiny.gpt2_config(), 3), 4, 0.3)


class TestGeneration(TestMultipleChoice):
    examples = tuple((text, "a b") for text in tiny.sentences(6, 5))

    @pytest.fixture
    def task(self):
        return Generation(
            "t", {"search": self.examples}, tokenizer=tiny.tokenizer(), max_new_tokens=3
        )

    @pytest.fixture
    def changed_task(self):
        other = {"search": [(text, "a c") for text, _ in self.examples]}
        return Generation("t", other, tokenizer=tiny.tokenizer(), max_new_tokens=3)


class TestForgetting(TestTensorClassification):
    """The base runs along, so a sample costs two passes."""

    @pytest.fixture
    def task(self):
        return Forgetting("f", tiny.net(5), data=tiny.net_tasks(tiny.net_pool())[0])

    @pytest.fixture
    def changed_task(self):
        return Forgetting("f", tiny.net(6), data=tiny.net_tasks(tiny.net_pool())[0])


class TestSparsity(TestTensorClassification):
    """Weights alone: no data, no passes."""

    @pytest.fixture
    def task(self):
        return Sparsity("s", tiny.net(5))

    @pytest.fixture
    def changed_task(self):
        return Sparsity("s", tiny.net(6))
