"""Builds lm3: a small GPT-2 of four languages, and an expert for each of three of them.

The base learns from English and a little German, French and Italian; each expert goes on with one
language alone, of which it gets better while it forgets the others. The sentences of a language
are cut in their order, after repeated ones are dropped: base, expert, search, test. The train
split of the problem is the beginning of what its expert learned from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from moofusion.errors import DataError
from moofusion.weights.sources import quiet_transformers
from moofusion.zoo import checkpoints
from moofusion.zoo.archives import ARCHIVES
from moofusion.zoo.corpora import brown, sentences
from moofusion.zoo.fitting import Fitting, fit
from moofusion.zoo.notice import archive_notice
from moofusion.zoo.stages import Bar, Stage, stage_key

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    from moofusion.zoo.manifest import Table

#: Begins every text, and is the only special token.
START = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Numbers of sentences of each language; what is left between base and search is the expert's.

    `train` are those of the expert's that the problem gets.
    """

    base: int = 12_000
    search: int = 200
    test: int = 500
    train: int = 3_000


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe:
    """Everything that decides what is built, apart from the data.

    Attributes:
        tasks: the languages.
        seed: of the base; the experts follow it.
        splits: how the sentences are cut.
        vocabulary: tokens of the byte-level BPE, which is trained on the base's texts.
        context: tokens of a sequence, in training and in the problem.
        width: of the hidden states.
        layers: number of blocks.
        heads: attention heads.
        pretraining: of the base.
        experts: of each expert.
    """

    tasks: tuple[str, ...] = ("de", "fr", "it")
    seed: int = 2026
    splits: Sentences = field(default_factory=Sentences)
    vocabulary: int = 2048
    context: int = 128
    width: int = 128
    layers: int = 4
    heads: int = 4
    pretraining: Fitting = field(
        default_factory=lambda: Fitting(
            steps=1600, batch_size=16, learning_rate=3e-3, weight_decay=0.1, warmup=0.05
        )
    )
    experts: Fitting = field(
        default_factory=lambda: Fitting(
            steps=350, batch_size=16, learning_rate=1.5e-3, weight_decay=0.1, warmup=0.1
        )
    )


class Corpus(NamedTuple):
    """English sentences, and those of each language by what they are for (see `cut`)."""

    english: list[str]
    parts: dict[str, dict[str, list[str]]]


def read_corpus(plan: LanguageRecipe, data: str | Path | None) -> Corpus:
    """Read and cut the sentences.

    Args:
        plan: the recipe.
        data: folder with the archives; without one they are fetched.

    Raises:
        DataError: an archive is missing or damaged, or holds too few sentences.
    """
    found = {task: cut(task, sentences(task, data), plan.splits) for task in plan.tasks}
    return Corpus(brown(data), found)


def build_language(
    work: Path, plan: LanguageRecipe, corpus: Corpus, bar: Bar
) -> tuple[dict[str, Any], dict[str, Table]]:
    """Write ``models/``, ``data/`` and ``NOTICE.md`` into `work`.

    Args:
        work: the folder of the build.
        plan: the recipe.
        corpus: its texts.
        bar: see `moofusion.zoo.stages.bars`.

    Returns:
        What the manifest says of it, and bits per byte by split, model and task.
    """
    english, parts = corpus
    mixture = [*english, *(text for part in parts.values() for text in part["base"])]
    tokenizer = train_tokenizer(mixture, plan)
    stream = encode(tokenizer, mixture, plan.seed)
    base = Stage(work, "base", stage_key([plan.pretraining, _shape(plan), plan.seed], [stream]))
    if not base.finished():
        model = new_model(plan)
        _train(base, model, stream, plan.pretraining, plan.seed, tokenizer, bar)
    origin = checkpoints.sha256(base.folder / "model.safetensors")
    for index, (task, part) in enumerate(parts.items()):
        seed = plan.seed + 1 + index
        stream = encode(tokenizer, part["expert"], seed)
        expert = Stage(work, task, stage_key([origin, plan.experts, seed], [stream]))
        if not expert.finished():
            model = load_model(base.folder)
            _train(expert, model, stream, plan.experts, seed, tokenizer, bar)
    for task, part in parts.items():
        _save_texts(part, work / "data" / task)
    keys = ("brown", *plan.tasks)
    (work / "NOTICE.md").write_text(archive_notice(keys), encoding="utf-8")
    facts = {
        "parameters": {"body": sum(p.numel() for p in load_model(base.folder).parameters())},
        "splits": {
            task: {split: len(part[split]) for split in ("train", "search", "test")}
            for task, part in parts.items()
        },
        "pool": {task: len(part["expert"]) for task, part in parts.items()},
        "pretraining": {"brown": len(english), **{t: len(p["base"]) for t, p in parts.items()}},
        "recipe": asdict(plan),
        "archives": {key: ARCHIVES[key].sha256 for key in keys},
    }
    return facts, _measure(work, plan, parts, tokenizer)


def cut(task: str, texts: list[str], sizes: Sentences) -> dict[str, list[str]]:
    """The sentences of one language by what they are for, without overlap.

    Args:
        task: the language, for the message.
        texts: its different sentences in order.
        sizes: how many are for what.

    Returns:
        ``base``, ``expert``, ``search`` and ``test``, and ``train``, which begins ``expert``.

    Raises:
        DataError: there are too few.
    """
    end = len(texts) - sizes.test
    start = end - sizes.search
    if start - sizes.base < sizes.train:
        needed = sizes.base + sizes.train + sizes.search + sizes.test
        raise DataError(f"{task}: {len(texts)} different sentences, at least {needed} are needed")
    expert = texts[sizes.base : start]
    return {
        "base": texts[: sizes.base],
        "expert": expert,
        "train": expert[: sizes.train],
        "search": texts[start:end],
        "test": texts[end:],
    }


def train_tokenizer(texts: list[str], plan: LanguageRecipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, which `AutoTokenizer` reads back."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=plan.vocabulary,
        special_tokens=[START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=START,
        model_max_length=plan.context,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], seed: int) -> NDArray[np.int64]:
    """One stream of the tokens of all texts in random order, each after the start token."""
    order = np.random.default_rng(seed).permutation(len(texts))
    encoded = tokenizer([texts[i] for i in order], add_special_tokens=False, verbose=False)
    start = [tokenizer.bos_token_id]
    return np.concatenate([np.array(start + ids, np.int64) for ids in encoded["input_ids"]])


def new_model(plan: LanguageRecipe) -> GPT2LMHeadModel:
    """A freshly initialised GPT-2 without dropout; input and output embeddings are the same."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=plan.vocabulary,
        n_positions=plan.context,
        n_embd=plan.width,
        n_layer=plan.layers,
        n_head=plan.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        model: GPT2LMHeadModel = GPT2LMHeadModel(config)
    return model


def load_model(folder: Path) -> GPT2LMHeadModel:
    """Read a model of lm3, computing in float32."""
    from transformers import GPT2LMHeadModel

    with quiet_transformers():
        model: GPT2LMHeadModel = GPT2LMHeadModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
    return model.eval()


def _shape(plan: LanguageRecipe) -> tuple[int, ...]:
    return plan.vocabulary, plan.context, plan.width, plan.layers, plan.heads


def _train(
    stage: Stage,
    model: GPT2LMHeadModel,
    stream: NDArray[np.int64],
    options: Fitting,
    seed: int,
    tokenizer: PreTrainedTokenizerFast,
    bar: Bar,
) -> None:
    """Train on windows that begin anywhere in the stream, and write the model."""
    from moofusion.tasks.language import token_losses

    generator = torch.Generator().manual_seed(seed)
    tokens, context = torch.from_numpy(stream), model.config.n_positions
    positions = torch.arange(context)
    everything = torch.ones(options.batch_size, context)

    def batch_loss() -> Tensor:
        first = torch.randint(
            len(tokens) - context + 1, (options.batch_size, 1), generator=generator
        )
        losses = token_losses(model, tokens[first + positions], everything)
        return losses.mean()

    advance = bar(stage.folder.name, options.steps)
    loss = fit(model, batch_loss, options, advance=advance)
    stage.finish(model, tokenizer.save_pretrained, loss=loss, tokens=len(stream))


def _save_texts(part: dict[str, list[str]], folder: Path) -> None:
    from datasets import Dataset, DatasetDict, disable_progress_bars, enable_progress_bars
    from datasets.utils import are_progress_bars_disabled

    tables = {split: Dataset.from_dict({"text": part[split]}) for split in _SPLITS}
    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        DatasetDict(tables).save_to_disk(str(folder))
    finally:
        if not silent:
            enable_progress_bars()


_SPLITS = ("train", "search", "test")
_MEASURED = ("search", "test")


def _measure(
    work: Path,
    plan: LanguageRecipe,
    parts: dict[str, dict[str, list[str]]],
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, Table]:
    """Bits per byte of base, experts and controls on every task, from the files just written."""
    from moofusion.tasks.language import LanguageModeling

    tasks = [
        LanguageModeling(
            task,
            {split: part[split] for split in _MEASURED},
            tokenizer=tokenizer,
            context=plan.context,
        )
        for task, part in parts.items()
    ]
    model = load_model(work / "models" / "base")
    experts = {task: load_model(work / "models" / task).state_dict() for task in plan.tasks}
    base = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    tables: dict[str, Table] = {split: {} for split in _MEASURED}
    for name, body in checkpoints.controls(base, experts).items():
        model.load_state_dict(body)
        for split in _MEASURED:
            tables[split][name] = {
                task.name: task.evaluate(model, split).metrics["bits_per_byte"] for task in tasks
            }
    return tables
