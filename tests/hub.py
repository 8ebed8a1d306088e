"""Stand-ins for repositories of the hub: the same files and names, tiny models and random data.

Below one folder, ``owner/name`` holds what the repository of that name would hold; a problem file
whose ``folder`` is set to it finds its models and data there.
"""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import tiny

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
