"""Settings and fixtures of all tests: no network, one thread, tiny models saved once."""

from __future__ import annotations

import os
import tempfile
from types import SimpleNamespace

# Before anything imports transformers or datasets, which read these once.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="moofusion-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import tiny
import torch

from moofusion.tasks import ImageClassification, LabelledData
from moofusion.weights import ModelPool


@pytest.fixture(scope="session", autouse=True)
def _session():
    import datasets
    from transformers.utils import logging

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    yield
    import shutil

    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def vit_folders(tmp_path_factory):
    """A headless ViT and three classifiers that drifted from it, saved to disk. Read only."""
    from transformers import ViTImageProcessorPil, ViTModel

    root = tmp_path_factory.mktemp("vits")
    processor = ViTImageProcessorPil(do_resize=False, image_mean=[0.5], image_std=[0.5])
    body = tiny.build(ViTModel, tiny.vit_config())
    body.save_pretrained(root / "base")
    processor.save_pretrained(root / "base")
    for i, (name, labels) in enumerate({"dots": 3, "bars": 4, "rings": 3}.items()):
        expert = tiny.vit(seed=20 + i, labels=labels)
        expert.vit.load_state_dict(body.state_dict(), strict=False)
        tiny.drift(expert, 30 + i, 0.15, only="vit.")
        expert.save_pretrained(root / name)
    return SimpleNamespace(
        base=root / "base",
        experts={name: root / name for name in ("dots", "bars", "rings")},
        root=root,
    )


@pytest.fixture(scope="session")
def images(vit_folders):
    """Random pictures, labelled by the expert of each task with some noise. Read only."""
    from transformers import ViTForImageClassification

    found = {}
    for i, (name, folder) in enumerate(vit_folders.experts.items()):
        expert = ViTForImageClassification.from_pretrained(folder).eval()
        rng = np.random.default_rng(40 + i)
        items, labels = {}, {}
        for split, size in tiny.SIZES.items():
            items[split] = rng.integers(0, 256, (size, 8, 8), dtype=np.uint8)
            pixels = torch.from_numpy(items[split]).float()[:, None] / 255 * 2 - 1
            with torch.no_grad():
                labels[split] = expert(pixel_values=pixels).logits.argmax(1).numpy()
            flip = rng.random(size) < 0.2
            labels[split][flip] = rng.integers(0, expert.config.num_labels, flip.sum())
        classes = tuple(f"{name}{c}" for c in range(expert.config.num_labels))
        found[name] = LabelledData(items, labels, classes)
    return found


@pytest.fixture(scope="session")
def vit_pool(vit_folders):
    return ModelPool(vit_folders.base, vit_folders.experts)


@pytest.fixture(scope="session")
def loaded_vits(vit_pool):
    """The same in memory. Its flat weights are scratch space, nothing else may be written."""
    return vit_pool.load()


@pytest.fixture
def vit_tasks(images, vit_folders):
    return [
        ImageClassification(name, data, processor=vit_folders.base, batch_size=20)
        for name, data in images.items()
    ]


@pytest.fixture
def problem():
    """Three experts and three tasks on a plain module; a fresh, cheap MergeProblem."""
    return tiny.net_problem()


@pytest.fixture(scope="session")
def shared_problem():
    """The same for tests that only read; evaluations by other tests may be in its cache."""
    return tiny.net_problem()


@pytest.fixture
def rng():
    return np.random.default_rng(7)
