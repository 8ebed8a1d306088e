"""Building a zoo: the whole way on made-up data, resuming, refusing, and finding it again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import moofusion
from moofusion import get_problem
from moofusion.errors import ConfigurationError, DataError, UnknownNameError
from moofusion.zoo import ZOOS, build, build_zoo, training, zoo_folder
from moofusion.zoo.vision import Architecture, Splits, Training, recipe

TRIAL: dict[str, Any] = {"steps_scale": 1e-4, "progress": False, "threads": 1}


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MOOFUSION_ZOO", raising=False)


@pytest.fixture(autouse=True, scope="module")
def _small_splits() -> Iterator[None]:
    small = Splits(train=200, search=100, test=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "recipe", lambda name: replace(recipe(name), splits=small))
        yield


@pytest.fixture(scope="module")
def built(raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_zoo(
        "vision5", data=raw_data, out=tmp_path_factory.mktemp("zoo") / "vision5", **TRIAL
    )


def test_a_build_writes_models_data_notice_and_manifest(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    tasks = ["mnist", "fashion", "animals", "objects", "cifar10"]

    assert sorted(p.name for p in (built / "models").iterdir()) == sorted(["base", *tasks])
    assert sorted(p.stem for p in (built / "data").iterdir()) == sorted(tasks)
    assert "do not redistribute" in (built / "NOTICE.md").read_text()
    rows = manifest["accuracy"]["search"]
    assert list(rows) == ["base", *tasks, "average", "task arithmetic 0.3"]
    assert all(0 <= value <= 1 for row in rows.values() for value in row.values())
    assert manifest["pretraining"]["sketch_classes"] == 2
    assert manifest["pool"]["mnist"] == 330 - 100
    assert not list(built.parent.glob(".*"))


def test_a_build_opens_as_a_problem_and_is_searched(built: Path, tmp_path: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    problem = get_problem("vision5", device="cpu", overrides={"folder": str(built.parent)})
    measured = 1 - problem.evaluate(np.eye(5))
    for row, name in enumerate(problem.task_names):
        recorded = manifest["accuracy"]["search"][name]
        assert measured[row] == pytest.approx(list(recorded.values()), abs=1e-6)
    result = moofusion.search(problem, "random", evaluations=4, seed=1)
    assert np.isfinite(result.front.values("test")).all()
    assert (result.export(tmp_path / "merged", point=1).folder / "model.safetensors").exists()


def test_shipped_weights_are_half_precision(built: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(built / "models" / "mnist" / "model.safetensors")

    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def test_an_existing_folder_is_refused(built: Path, raw_data: Path) -> None:
    with pytest.raises(ConfigurationError, match="exists; use force"):
        build_zoo("vision5", data=raw_data, out=built, **TRIAL)


def test_an_interrupted_build_goes_on_and_gives_the_same_models(
    raw_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_zoo("vision4", data=raw_data, out=tmp_path / "whole", **TRIAL)
    done = 0
    original = training.train

    def breaks(*args: Any, **kwargs: Any) -> float:
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(training, "train", breaks)
    with pytest.raises(KeyboardInterrupt):
        build_zoo("vision4", data=raw_data, out=tmp_path / "broken", **TRIAL)
    assert not (tmp_path / "broken").exists()

    build_zoo("vision4", data=raw_data, out=tmp_path / "broken", **TRIAL)

    assert done == 3 + 3  # base and mnist were not trained again
    files = [json.loads((tmp_path / n / "manifest.json").read_text()) for n in ("whole", "broken")]
    assert files[0]["files"] == files[1]["files"]
    assert files[0]["accuracy"] == files[1]["accuracy"]
    assert whole == tmp_path / "whole"


def test_missing_data_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="quickdraw"):
        build_zoo("vision4", data=tmp_path, out=tmp_path / "out", **TRIAL)
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_and_senseless_options_are_refused(raw_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'vision"):
        build_zoo("vison4", data=raw_data)
    with pytest.raises(UnknownNameError, match="Known: lm3, text3, vision4, vision5"):
        zoo_folder("language")
    with pytest.raises(ConfigurationError, match="steps_scale must be above 0, got 0"):
        build_zoo("vision4", data=raw_data, out=tmp_path / "x", steps_scale=0)


def test_the_folder_is_found_in_order_environment_cache_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert zoo_folder("vision4").parent.name == "assets"
    with pytest.raises(DataError, match="moofusion zoo build vision5 --data DIR"):
        zoo_folder("vision5")

    monkeypatch.setattr(
        "moofusion.zoo.folders.cache_folder", lambda name: tmp_path / "cache" / name
    )
    for root in ("cache", "own"):
        (tmp_path / root / "vision4").mkdir(parents=True)
        (tmp_path / root / "vision4" / "manifest.json").write_text("{}")
    assert zoo_folder("vision4") == tmp_path / "cache" / "vision4"

    monkeypatch.setenv("MOOFUSION_ZOO", str(tmp_path / "own"))
    assert zoo_folder("vision4") == tmp_path / "own" / "vision4"


def test_importing_the_zoo_is_light() -> None:
    code = (
        "import sys, moofusion.zoo; moofusion.zoo.zoo_folder('vision4'); "
        "print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"
    assert set(ZOOS) == {"vision4", "vision5", "lm3", "text3"}


def test_training_learns_and_the_probe_is_linear() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = rng.integers(0, 40, (64, 28, 28)).astype(np.uint8)
    images[labels == 1, :, 14:] += 200
    small = Architecture(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = training.new_model(small, ("left", "right"), seed=0)
    options = Training(steps=30, batch_size=32, erase=0.2, mixup=0.2, label_smoothing=0.1)

    training.train(model, training.sampler(images, labels, batch_size=32), options, seed=0)

    assert training.accuracy(model, images, labels) == 1.0
    model.classifier = training.probe(model, images, labels, classes=2, steps=50)
    assert training.accuracy(model, images, labels) == 1.0


def test_without_changes_augmentation_is_the_plain_scaling() -> None:
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8)
    still = Training(steps=1, angle=0, shift=0, scale=0)

    changed = training.augment(images, options=still, generator=torch.Generator())

    torch.testing.assert_close(changed, training.pixel_values(images), rtol=0, atol=1e-5)


def test_photographs_are_labelled_by_their_rotation_only() -> None:
    photographs = np.zeros((4, 28, 28), np.uint8)
    photographs[:, 0] = 255  # a bright first row
    sketches = training.sampler(photographs, np.arange(4), batch_size=4)
    draw = training.with_rotations(
        sketches, training.sampler(photographs, None, batch_size=64), first_label=7
    )

    images, labels = draw(torch.Generator().manual_seed(0))

    edges = (
        torch.stack([images[:, 0], images[:, :, 0], images[:, -1], images[:, :, -1]], dim=1)
        .float()
        .mean(-1)
    )
    assert set(labels[4:].tolist()) == {7, 8, 9, 10}
    np.testing.assert_array_equal(edges[4:].argmax(1), labels[4:] - 7)
