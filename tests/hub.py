"""Stand-ins for repositories of the hub: the same files and names, tiny models and random data.

Below one folder, ``owner/name`` holds what the repository of that name would hold; a problem file
whose ``folder`` is set to it finds its models and data there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import tiny
import torch

from moofusion.tasks import Prompts

CLIP_TASKS = {
    "sun397": ("tanganke/sun397", "sun397"),
    "stanford_cars": ("tanganke/stanford_cars", "stanford-cars"),
    "resisc45": ("tanganke/resisc45", "resisc45"),
    "eurosat": ("tanganke/eurosat", "eurosat"),
    "svhn": ("ufldl-stanford/svhn", "svhn"),
    "gtsrb": ("tanganke/gtsrb", "gtsrb"),
    "mnist": ("ylecun/mnist", "mnist"),
    "dtd": ("tanganke/dtd", "dtd"),
}


def clip_config():
    from transformers import CLIPConfig

    sizes = {"hidden_size": 16, "intermediate_size": 32}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 82, "max_position_embeddings": 24}
    # The published configurations name an end token that is not the tokenizer's.
    text |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    vision = {"image_size": 8, "patch_size": 4}
    return CLIPConfig(text_config=sizes | text, vision_config=sizes | vision, projection_dim=12)


def clip_tokenizer():
    """CLIP's own tokenizer, with letters for its vocabulary; the end token has the highest id."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.:/-"
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


def save_clip(root, family):
    """Base and eight experts of ``clip-vit-...``: a whole CLIP model, and vision towers."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPVisionModel

    base = root / "openai" / family
    tiny.build(CLIPModel, clip_config()).save_pretrained(base)
    clip_tokenizer().save_pretrained(base)
    CLIPImageProcessorPil(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
    ).save_pretrained(base)
    for i, (_, suffix) in enumerate(CLIP_TASKS.values()):
        tower = CLIPVisionModel.from_pretrained(base)
        tiny.drift(tower, i, 0.2).save_pretrained(root / "tanganke" / f"{family}_{suffix}")


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(8, 12, (count, 2))
    return [PIL.Image.fromarray(rng.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in sizes]


def save_picture_data(folder, classes, *, train=50, test=20, seed=0):
    """A data set of pictures in parquet files, as the hub holds it: no search split."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(classes))}
    )
    pool = pictures(40, seed)
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", train), ("test", test)):
        # Sorted by class, as many published sets are.
        labels = np.sort(np.random.default_rng(seed + count).integers(0, len(classes), count))
        images = [pool[(7 * i) % 40] for i in range(count)]
        table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))


def save_clip_data(root):
    for i, (task, (repository, _)) in enumerate(CLIP_TASKS.items()):
        save_picture_data(root / repository, Prompts.shipped(task).class_names, seed=i)
    # Configurations are listed at the head of the card.
    card = root / "ufldl-stanford" / "svhn"
    (card / "data").rename(card / "cropped_digits")
    files = [{"split": split, "path": f"cropped_digits/{split}-*"} for split in ("train", "test")]
    configs = [{"config_name": "cropped_digits", "data_files": files}]
    (card / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")


# -------------------------------------------------------------------------------- GPT-2 and GLUE

GLUE = {
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment")),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment")),
    "sst2": (("sentence",), ("negative", "positive")),
}


def gpt2_tokenizer():
    """GPT-2's own tokenizer with letters for its vocabulary; it has no padding token."""
    from transformers import GPT2Tokenizer

    words = [*"abcdefghijklmnop", "Ġ", "<|endoftext|>"]
    return GPT2Tokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


def save_gpt2(root):
    """Base with the tensor names of the published file, and a classifier for every task."""
    from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

    base = root / "openai-community" / "gpt2"
    words = {"vocab_size": 18, "bos_token_id": 17, "eos_token_id": 17, "pad_token_id": None}
    words |= {"n_positions": 64}
    body = tiny.build(GPT2LMHeadModel, tiny.gpt2_config(**words))
    body.save_pretrained(base)

    def published(tensors):
        """No prefix, and the causal masks as tensors."""
        masks = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 64, 64), np.float32)) for i in (0, 1)}
        plain = {name.removeprefix("transformer."): value for name, value in tensors.items()}
        return plain | {name: torch.from_numpy(mask) for name, mask in masks.items()}

    tiny.edit_weights(base, published)
    gpt2_tokenizer().save_pretrained(base)
    for i, (task, (_, classes)) in enumerate(GLUE.items()):
        config = tiny.gpt2_config(labels=len(classes), **words)
        expert = tiny.build(GPT2ForSequenceClassification, config, 10 + i)
        expert.transformer.load_state_dict(body.transformer.state_dict())
        tiny.drift(expert, i, 0.2, only="transformer.").save_pretrained(
            root / "tanganke" / f"gpt2_{task}"
        )


def save_glue(root, *, train=40, test=18):
    """Configurations in folders of their own, an unlabelled test split, two of MNLI."""
    import datasets

    place, configs = root / "nyu-mll" / "glue", []
    for i, (task, (columns, classes)) in enumerate(GLUE.items()):
        label = {"label": datasets.ClassLabel(names=list(classes))}
        features = datasets.Features({c: datasets.Value("string") for c in columns} | label)
        held = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
        files = []
        counts = [("train", train), *((name, test) for name in held), ("test", 6)]
        for j, (split, count) in enumerate(counts):
            rng = np.random.default_rng(100 * i + j)
            rows = {c: tiny.sentences(count, int(rng.integers(1e6))) for c in columns}
            none = [-1] * count
            rows["label"] = none if split == "test" else rng.integers(0, len(classes), count)
            file = place / task / f"{split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_dict(rows, features=features).to_parquet(str(file))
            files.append({"split": split, "path": f"{task}/{split}-*"})
        configs.append({"config_name": task, "data_files": files})
    (place / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")


# -------------------------------------------------------------------------------- the caches


def cache_model(folder, repository, *, revision="main"):
    """Put a saved model into the hub's cache as a download leaves it: blobs, links, a reference."""
    from huggingface_hub.constants import HF_HUB_CACHE

    place = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    commit = hashlib.sha1(revision.encode()).hexdigest()
    for file in folder.iterdir():
        blob = place / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link = place / "snapshots" / commit / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path("../../blobs") / blob.name)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / revision).write_text(commit)


def cache_data(folder, repository, tables):
    """Put tables into the cache of ``datasets`` as a download of `repository` leaves them."""
    from datasets.config import HF_DATASETS_CACHE
    from datasets.packaged_modules.parquet.parquet import Parquet

    folder.mkdir()
    for split, table in tables.items():
        table.to_parquet(str(folder / f"{split}.parquet"))
    files = {split: [str(folder / f"{split}.parquet")] for split in tables}
    builder = Parquet(
        cache_dir=str(folder / "cache"),
        dataset_name=repository.split("/")[1],
        hash="0" * 40,
        data_files=files,
    )
    builder.download_and_prepare()
    place = Path(HF_DATASETS_CACHE) / repository.replace("/", "___") / "default" / "0.0.0"
    place.mkdir(parents=True)
    shutil.move(builder.cache_dir, place / ("0" * 40))
    shutil.rmtree(folder)
