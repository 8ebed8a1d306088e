"""Distance, sparsity, forgetting, calibration and corruptions against plain computations."""

import pickle
import shutil

import numpy as np
import PIL.Image
import pytest
import tiny
import torch
from torch import nn

from moofusion import MergeProblem, ModelPool
from moofusion.errors import ConfigurationError, PoolError, UnknownNameError
from moofusion.tasks import (
    CORRUPTIONS,
    BaseDistance,
    Forgetting,
    ImageClassification,
    LabelledData,
    LanguageModeling,
    Sparsity,
    TensorClassification,
    corrupt,
    corrupted,
)

# -------------------------------------------------------------------- weights against the base


def test_distance_and_sparsity_over_the_body_of_real_models(vit_folders, loaded_vits):
    """The base has no head and no prefix, the expert has both; only the body counts."""
    vectors = loaded_vits.vectors
    module = loaded_vits.model.modules["dots"]
    L = torch.tensor([0.5, 0.0, 0.25])
    moved = L @ vectors.deltas
    loaded_vits.model.weights.copy_(vectors.base + moved)
    found = BaseDistance("d", vit_folders.base).evaluate(module, "test").metrics["distance"]
    assert found == pytest.approx(float(moved.norm() / vectors.base.norm()), rel=1e-5)
    assert Sparsity("s", vit_folders.base).evaluate(module, "test").metrics["sparsity"] < 0.01
    loaded_vits.model.weights.copy_(vectors.base)
    for task, value in ((BaseDistance("d", vit_folders.base), 0.0),
                        (Sparsity("s", vit_folders.base), 1.0)):  # fmt: skip
        assert next(iter(task.evaluate(module, "search").metrics.values())) == value


def test_sparsity_of_a_sparse_merge(vit_folders, images):
    """TIES keeps a share of every task vector; what no expert moves stays at the base."""
    pool = ModelPool(vit_folders.base, {"dots": vit_folders.experts["dots"]})
    task = Sparsity("s", vit_folders.base, head="dots")
    merge = {"method": "ties", "density": 0.25}
    problem = MergeProblem(pool, [task], merge=merge, device="cpu")
    kept = problem.evaluate(np.array([[1.0]]))[0, 0]
    assert kept == pytest.approx(0.25, abs=0.01)
    assert problem.has_test_split


def test_tolerance_counts_small_changes_as_none():
    base, moved = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)
    moved.weight.data = base.weight.data + torch.tensor([[0.0, 0.01, 1.0]])
    for tolerance, share in ((0, 1 / 3), (0.1, 2 / 3), (2, 1.0)):
        task = Sparsity("s", base, tolerance=tolerance)
        assert task.evaluate(moved, "search").metrics["sparsity"] == pytest.approx(share)
    with pytest.raises(ConfigurationError, match="tolerance"):
        Sparsity("s", base, tolerance=-1)


def test_another_model_than_the_base_is_refused():
    with pytest.raises(PoolError, match="no parameter in common"):
        BaseDistance("d", nn.Linear(2, 2)).evaluate(nn.Conv2d(1, 1, 1), "search")


def test_the_fingerprint_follows_the_weights_and_nothing_else(vit_folders, loaded_vits, tmp_path):
    task = BaseDistance("d", vit_folders.base)
    before = task.fingerprint("search")
    task.evaluate(loaded_vits.model.modules["dots"], "search")
    shutil.copytree(vit_folders.base, tmp_path / "copy")
    moved = BaseDistance("d", tmp_path / "copy").fingerprint("search")
    assert task.fingerprint("search") == before == moved
    tiny.edit_weights(tmp_path / "copy", lambda tensors: {k: v + 1 for k, v in tensors.items()})
    assert BaseDistance("d", tmp_path / "copy").fingerprint("search") != before


# ---------------------------------------------------------------------------------- forgetting


def test_forgetting_of_a_language_model_token_by_token():
    from transformers import GPT2LMHeadModel

    base = tiny.build(GPT2LMHeadModel, tiny.gpt2_config(), 1)
    merged = tiny.drift(tiny.build(GPT2LMHeadModel, tiny.gpt2_config(), 1), 2, 0.3)
    texts = tiny.sentences(6, seed=3)
    data = LanguageModeling(
        "c", {"search": texts, "train": texts}, tokenizer=tiny.tokenizer(), context=7, batch_size=2
    )
    stream = [t for text in texts for t in tiny.tokenizer()(text)["input_ids"]]
    slow = []
    for i in range(1, len(stream)):
        ids = torch.tensor([stream[(i - 1) // 6 * 6 : i]])
        with torch.no_grad():
            p, q = (m(input_ids=ids).logits[0, -1].double().softmax(0) for m in (base, merged))
        slow.append(float((p * (p / q).log()).sum()))
    task = Forgetting("f", base, data=data)
    found = task.evaluate(merged, "search")
    assert found.metrics["kl"] == pytest.approx(np.mean(slow), rel=1e-4)
    assert found.n_samples == 2 * data.n_samples("search")
    assert float(task.loss(merged, "train").detach()) == pytest.approx(np.mean(slow), rel=1e-4)


def test_forgetting_can_be_descended():
    """Its gradient with respect to the coefficients, against finite differences."""
    pool = tiny.net_pool(("a", "b"))
    data = tiny.net_tasks(pool, ("a",))[0]
    task = Forgetting("kept", pool.base, data=data, head="base")
    problem = MergeProblem(pool, [task], device="cpu")
    assert problem.evaluate(np.zeros((1, 2)))[0, 0] == pytest.approx(0, abs=1e-9)
    x = np.array([0.6, 0.3])
    told = []
    problem.gradient_observers.append(lambda cost, seconds: told.append(cost))
    slope = problem.losses_and_grads(x)[1][0]
    # The merge goes forward and backward, the base beside it forward.
    assert told == [4 * task.n_samples("train")]
    problem.gradient_observers.clear()
    for k in (0, 1):
        step = np.eye(2)[k] * 3e-3
        ends = [problem.losses_and_grads(x + s * step)[0][0] for s in (1, -1)]
        assert slope[k] == pytest.approx((ends[0] - ends[1]) / 6e-3, rel=0.01, abs=2e-4)


def test_forgetting_needs_predictions_and_survives_copies():
    base = nn.Linear(2, 2)
    with pytest.raises(ConfigurationError, match="LanguageModeling or a ClassificationTask"):
        Forgetting("f", base, data=BaseDistance("d", base))
    data = TensorClassification("d", {"search": (torch.eye(2), torch.arange(2))}, classes=2)
    task, other = Forgetting("f", base, data=data), nn.Linear(2, 2)
    copied = pickle.loads(pickle.dumps(task))
    assert copied.evaluate(other, "search") == task.evaluate(other, "search")
    assert copied.fingerprint("search") == task.fingerprint("search")


# --------------------------------------------------------------------------------- calibration


def test_calibration_error_bin_by_bin(rng):
    scores = torch.tensor(rng.normal(0, 2, (200, 4)), dtype=torch.float32)
    labels = torch.tensor(rng.integers(0, 4, 200))
    task = TensorClassification(
        "t", {"search": (scores, labels)}, classes=4, batch_size=33, objective="ece"
    )
    found = task.evaluate(nn.Identity(), "search").metrics["ece"]
    p = scores.double().softmax(1).numpy()
    confidence, right = p.max(1), p.argmax(1) == labels.numpy()
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    assert found == pytest.approx(expected, rel=1e-5)
    assert task.objective.objective(found) == found


def test_a_sure_model_that_is_right_is_calibrated_and_one_that_is_wrong_is_not():
    x, y = 50 * torch.eye(3), torch.arange(3)
    right = TensorClassification("t", {"search": (x, y)}, classes=3)
    wrong = TensorClassification("t", {"search": (x, y.roll(1))}, classes=3)
    assert right.evaluate(nn.Identity(), "search").metrics["ece"] == pytest.approx(0)
    assert wrong.evaluate(nn.Identity(), "search").metrics["ece"] == pytest.approx(1)


# --------------------------------------------------------------------------------- corruptions


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(24, 24), (24, 20, 3)])
def test_corruptions_grow_with_severity(kind, shape, rng):
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(rng.random(shape), [2, 2] + [0] * (len(shape) - 2))
    image = (80 + 100 * (blurred - blurred.min()) / np.ptp(blurred)).astype(np.uint8)
    before = image.copy()
    distances = []
    for severity in range(1, 6):
        changed = corrupt(image, kind, severity)
        assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
        distances.append(np.abs(changed.astype(float) - image).mean())
    assert distances[0] > 0
    assert (np.diff(distances) > -0.35).all()
    assert distances[4] > 1.3 * distances[0]
    assert (image == before).all()


def test_noise_has_the_size_it_says():
    grey = np.full((200, 200), 128, np.uint8)
    assert corrupt(grey, "gaussian-noise", 1).std() / 255 == pytest.approx(0.08, rel=0.02)
    found = corrupt(grey, "impulse-noise", 3)
    assert (found != 128).mean() == pytest.approx(0.09, abs=0.005)
    assert set(np.unique(found)) == {0, 128, 255}


def test_corrupted_data_is_the_same_however_it_is_asked_for(rng):
    items = {s: rng.integers(0, 256, (6, 8, 8), dtype=np.uint8) for s in ("train", "search")}
    labels = {s: np.arange(6) % 2 for s in items}
    data = LabelledData(items, labels, ("a", "b"))
    noisy = corrupted(data, "gaussian-noise", 4, seed=3)
    assert noisy.items["train"] is items["train"]
    search = noisy.items["search"]
    assert all((a == b).all() for a, b in zip(search[2:5], [search[i] for i in (2, 3, 4)],
                                              strict=True))  # fmt: skip
    assert (search[-1] == search[5]).all()
    other = corrupted(data, "gaussian-noise", 4, seed=4)
    assert (other.items["search"][0] != search[0]).any()


def test_a_task_sees_corrupted_pictures(images, vit_folders):
    clean = ImageClassification("t", images["dots"], processor=vit_folders.base)
    data = corrupted(images["dots"], "contrast", 5)
    rough = ImageClassification("t", data, processor=vit_folders.base)
    a, b = (t.data("search")[0]["pixel_values"] for t in (clean, rough))
    assert b.std() < 0.2 * a.std()
    assert clean.fingerprint("search") != rough.fingerprint("search")
    assert torch.equal(
        clean.data("train")[0]["pixel_values"], rough.data("train")[0]["pixel_values"]
    )


def test_corruptions_that_do_not_exist():
    with pytest.raises(UnknownNameError, match="'gausian-noise'; did you mean 'gaussian-noise'"):
        corrupt(np.zeros((2, 2), np.uint8), "gausian-noise")
    with pytest.raises(ConfigurationError, match="expected 1 to 5, got 6"):
        corrupt(np.zeros((2, 2), np.uint8), "contrast", 6)


def test_pictures_with_transparency_are_corrupted_in_colour():
    picture = PIL.Image.new("RGBA", (6, 5), (10, 20, 30, 255))
    found = corrupt(picture, "brightness", 1)
    assert found.shape == (5, 6, 3)
    assert found[0, 0].tolist() == pytest.approx([35.5, 45.5, 55.5], abs=0.51)
