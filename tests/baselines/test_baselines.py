"""Whole-network baselines: real fine-tuning, streamed, resumed, on disk as checkpoints."""

import json
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch

from moofusion.algorithms.adam import cosine
from moofusion.algorithms.batches import SeededBatches
from moofusion.baselines import TrainedRays, train_rays
from moofusion.baselines import network as network_module
from moofusion.errors import ConfigurationError, RunError
from moofusion.problems import MergeProblem

FAST = {"rays": 3, "steps": 12, "lr": 1e-2, "batch_size": 10}


def _weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_linear_rays_are_ordinary_fine_tuning(tmp_path):
    """Against torch's Adam on the parameters of a module, sample by sample."""
    problem = tiny.net_problem(("a", "b"))
    done = train_rays(problem, tmp_path / "out", method="ls", **FAST)
    import zlib

    twin = tiny.net()
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    order = SeededBatches([60, 60], batch_size=10, seed=zlib.crc32(b"0:ray-002"))
    for step in range(12):
        optimizer.zero_grad()
        for task, rows in zip(problem.tasks, order(step), strict=True):
            (0.5 * task.loss(twin, "train", rows)).backward()
        optimizer.param_groups[0]["lr"] = 1e-2 * cosine(step, 12)
        optimizer.step()
    saved = _weights(tmp_path / "out" / done.rays[1].folder)
    for name, value in twin.state_dict().items():
        assert torch.allclose(saved[name], value, atol=1e-5), name


@pytest.mark.parametrize("method", ["ls", "epo", "mgda"])
def test_rays_follow_their_preference(method, tmp_path):
    problem = tiny.net_problem(("a", "b"))
    done = train_rays(problem, tmp_path / "out", method=method, **(FAST | {"steps": 60}))
    first, _, last = done.rays
    assert first.preference == {"a": 0.0, "b": 1.0}
    assert first.losses["b"] < last.losses["b"]
    assert last.losses["a"] < first.losses["a"]
    assert [ray.cost for ray in done.rays] == [3.0 * 20 * 60] * 3
    assert done.cost == 3 * problem.counter.backward
    assert {ray.fallbacks for ray in done.rays} == {0}


def test_what_is_on_disk(tmp_path, vit_pool, vit_tasks):
    from transformers import ViTForImageClassification

    problem = MergeProblem(vit_pool, vit_tasks)
    out = tmp_path / "out"
    done = train_rays(problem, out, rays=3, steps=2, lr=1e-3)
    assert len(done.rays) == 3
    ray = done.rays[1]
    best = max(ray.preference, key=ray.preference.get)
    model = ViTForImageClassification.from_pretrained(out / ray.folder).eval()
    task = problem.tasks[problem.task_names.index(best)]
    for split in ("search", "test"):
        assert (
            task.evaluate(model, split).metrics["accuracy"] == ray.metrics[split][best]["accuracy"]
        )
    recipe = json.loads((out / ray.folder / "merge.json").read_text())
    assert recipe["method"] == "fine-tuning"
    assert recipe["preference"] == ray.preference
    heads = {p.name for p in (out / ray.folder / "heads").iterdir()}
    assert heads == set(problem.task_names) - {best}
    assert "fine-tuned for one preference" in (out / ray.folder / "README.md").read_text()
    base = problem.evaluator.pool.vectors.base
    assert not torch.equal(problem.evaluator.pool.model.weights, base)
    assert TrainedRays.load(out) == done


def test_the_problem_measures_merges_as_before(tmp_path):
    problem = tiny.net_problem(("a", "b"))
    before = problem.evaluator.measure(np.full((1, 1, 2), 0.4), "search")[0].measurements
    train_rays(problem, tmp_path / "out", **(FAST | {"steps": 2}))
    after = problem.evaluator.measure(np.full((1, 1, 2), 0.4), "search")[0].measurements
    assert before == after


def test_an_interrupted_training_goes_on_with_the_next_ray(tmp_path, monkeypatch):
    whole = train_rays(tiny.net_problem(("a", "b")), tmp_path / "whole", **FAST)
    real, calls = network_module._one_ray, []

    def fail_at_second(*arguments):
        calls.append(arguments[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(network_module, "_one_ray", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        train_rays(tiny.net_problem(("a", "b")), tmp_path / "out", **FAST)
    assert len(TrainedRays.load(tmp_path / "out").rays) == 1
    done = train_rays(tiny.net_problem(("a", "b")), tmp_path / "out", **FAST)
    assert calls == ["ray-001", "ray-002", "ray-002", "ray-003"]
    for one, other in zip(whole.rays, done.rays, strict=True):
        assert one.losses == other.losses
        first, second = (_weights(tmp_path / name / one.folder) for name in ("whole", "out"))
        assert all(torch.equal(first[key], second[key]) for key in first)
    for one, other in pairwise(done.rays):
        assert one.losses != other.losses
    train_rays(tiny.net_problem(("a", "b")), tmp_path / "out", **FAST)
    assert len(calls) == 4


def test_mistakes(tmp_path):
    problem = tiny.net_problem(("a", "b"))
    train_rays(problem, tmp_path / "out", **(FAST | {"rays": 2, "steps": 1}))
    with pytest.raises(RunError, match=r"another training \(steps is 1, not 2"):
        train_rays(problem, tmp_path / "out", **(FAST | {"rays": 2, "steps": 2}))
    with pytest.raises(ConfigurationError, match="lr must be positive"):
        train_rays(problem, tmp_path / "b", lr=0)
    with pytest.raises(ConfigurationError, match="steps must be positive"):
        train_rays(problem, tmp_path / "b", steps=0)
    with pytest.raises(RunError, match=r"baselines\.json cannot be read"):
        TrainedRays.load(tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        train_rays(problem, tmp_path / "file", rays=1, steps=1)
    assert not (tmp_path / "b").exists()
