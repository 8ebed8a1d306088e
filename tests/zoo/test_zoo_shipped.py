"""The shipped vision4: files, splits, recorded accuracies and the conflict it is made for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import moofusion.zoo
from moofusion.zoo.vision import ANIMALS, OBJECTS

FOLDER = Path(moofusion.zoo.__file__).parent / "assets" / "vision4"
MANIFEST: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
TASKS = ("mnist", "fashion", "animals", "objects")


def splits(task: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Train, search and test of a task, read without pickles."""
    with np.load(FOLDER / "data" / f"{task}.npz", allow_pickle=False) as file:
        return {s: (file[f"{s}_images"], file[f"{s}_labels"]) for s in ("train", "search", "test")}


def load(name: str) -> Any:
    """A shipped model, by plain transformers, computing in float32."""
    from transformers import AutoModelForImageClassification

    folder = FOLDER / "models" / name
    return AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()


def accuracy(model: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of right answers, in batches of 250."""
    pixels = torch.from_numpy((images.astype(np.float32) / 255 - 0.5) / 0.5)[:, None]
    with torch.inference_mode():
        answers = [model(pixel_values=part).logits.argmax(-1) for part in torch.split(pixels, 250)]
    return float((torch.cat(answers).numpy() == labels).mean())


def test_every_file_is_listed_with_its_hash_and_nothing_else_is_there() -> None:
    found = {
        p.relative_to(FOLDER).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in FOLDER.rglob("*")
        if p.is_file() and p.name != "manifest.json"
    }

    assert found == {name: facts["sha256"] for name, facts in MANIFEST["files"].items()}


def test_shipped_size() -> None:
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < 15e6


@pytest.mark.parametrize("task", TASKS)
def test_splits_are_disjoint_and_balanced(task: str) -> None:
    data = splits(task)

    contents = [image.tobytes() for images, _ in data.values() for image in images]
    assert len(contents) == len(set(contents))
    for split, (images, labels) in data.items():
        assert images.dtype == np.uint8
        assert images.shape == (MANIFEST["splits"][task][split], 28, 28)
        assert len(set(np.bincount(labels).tolist())) == 1


def test_sizes_and_class_names() -> None:
    for task in ("mnist", "fashion"):
        assert MANIFEST["splits"][task] == {"train": 2000, "search": 1000, "test": 2000}
    for task, classes in (("animals", ANIMALS), ("objects", OBJECTS)):
        with np.load(FOLDER / "data" / f"{task}.npz", allow_pickle=False) as file:
            assert tuple(file["classes"].tolist()) == classes
        config = json.loads((FOLDER / "models" / task / "config.json").read_text())
        assert tuple(config["id2label"].values()) == classes
    assert not set(ANIMALS) & set(OBJECTS)
    assert min(len(ANIMALS), len(OBJECTS)) >= 20


def test_the_base_was_not_pretrained_on_the_tasks_classes() -> None:
    config = json.loads((FOLDER / "models" / "base" / "config.json").read_text())

    names = set(config["label2id"])
    assert len(names) > 290
    assert not names & {*ANIMALS, *OBJECTS, *map(str, range(10))}


@pytest.mark.parametrize("task", TASKS)
def test_recorded_accuracies_are_reproduced_by_plain_transformers(task: str) -> None:
    data = splits(task)
    model = load(task)
    own, base = model.vit.state_dict(), load("base").vit.state_dict()
    own = {key: value.clone() for key, value in own.items()}

    for name, body in ((task, own), ("base", base)):
        model.vit.load_state_dict(body)
        for split in ("search", "test"):
            recorded = MANIFEST["accuracy"][split][name][task]
            # one answer may tip over with another order of float additions
            assert accuracy(model, *data[split]) == pytest.approx(
                recorded, abs=1.5 / len(data[split][1])
            )


def test_the_average_is_the_recorded_one() -> None:
    bodies = [load(task).vit.state_dict() for task in TASKS]
    model = load("mnist")

    model.vit.load_state_dict({k: sum(b[k] for b in bodies) / 4 for k in bodies[0]})

    images, labels = splits("mnist")["search"]
    recorded = MANIFEST["accuracy"]["search"]["average"]["mnist"]
    assert accuracy(model, images, labels) == pytest.approx(recorded, abs=0.0025)


def test_targets_and_conflict() -> None:
    test = MANIFEST["accuracy"]["test"]
    expert = {task: test[task][task] for task in TASKS}

    assert expert["mnist"] >= 0.97
    assert expert["fashion"] >= 0.87
    assert min(expert["animals"], expert["objects"]) >= 0.55
    assert sum(expert[t] - test["base"][t] >= 0.10 for t in TASKS) >= 3
    assert sum(expert[t] - test["average"][t] >= 0.03 for t in TASKS) >= 2


@pytest.mark.parametrize("form", ["pillow", "channels first"])
def test_the_image_processor_gives_the_models_input(form: str) -> None:
    from PIL import Image
    from transformers import AutoImageProcessor

    from moofusion.zoo.training import pixel_values

    images = splits("fashion")["test"][0][:20]
    batch = [Image.fromarray(i) for i in images] if form == "pillow" else images[:, None]

    processor = AutoImageProcessor.from_pretrained(FOLDER / "models" / "fashion")

    made = processor(batch, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(made, pixel_values(images), rtol=0, atol=1e-6)
