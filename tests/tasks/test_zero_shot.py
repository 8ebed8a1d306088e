"""Zero-shot heads against CLIP itself, their cache, and the order of the classes."""

import json
import pickle
import shutil

import hub
import numpy as np
import pytest
import tiny
import torch

from moofusion.errors import DataError, EvaluationWarning, PoolError, UnknownNameError
from moofusion.tasks import LabelledData, Prompts, ZeroShotClassification
from moofusion.tasks.zero_shot import check_order, zero_shot_head
from moofusion.weights import ModelPool

FAMILY = "clip-vit-base-patch32"
NAMES, TEMPLATES = ("cat", "dog", "hare"), ("a photo of a {}.", "the {} it is")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    hub.save_clip(root, FAMILY)
    return root


@pytest.fixture
def clip(root):
    return root / "openai" / FAMILY


@pytest.fixture
def data():
    labels = np.arange(10) % 3
    splits = {"train": 0, "search": 1}
    return LabelledData(
        {split: hub.pictures(10, seed) for split, seed in splits.items()},
        dict.fromkeys(splits, labels),
        NAMES,
    )


def _task(data, clip, tmp_path, templates=TEMPLATES, **options):
    prompts = Prompts(NAMES, templates)
    options = {"clip": clip, "prompts": prompts, "cache": tmp_path / "heads"} | options
    return ZeroShotClassification("pets", data, **options)


def _tower(clip):
    from transformers import CLIPVisionModel

    return CLIPVisionModel.from_pretrained(clip).eval()


def test_one_template_gives_the_logits_of_clip(data, clip, tmp_path):
    """Against transformers' own forward pass of picture and text."""
    from transformers import CLIPModel, CLIPProcessor

    task = _task(data, clip, tmp_path, templates=TEMPLATES[:1])
    with torch.no_grad():
        found = task.logits(_tower(clip), task.data("search")[0])
        texts = [TEMPLATES[0].replace("{}", name) for name in NAMES]
        processor = CLIPProcessor.from_pretrained(clip)
        inputs = processor(
            text=texts, images=data.items["search"], padding=True, return_tensors="pt"
        )
        expected = CLIPModel.from_pretrained(clip).eval()(**inputs).logits_per_image
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_templates_are_averaged_on_the_sphere(clip, tmp_path):
    """Against one text after the other, without padding."""
    from transformers import CLIPModel

    head = zero_shot_head(clip, Prompts(NAMES, TEMPLATES), cache=tmp_path)
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), hub.clip_tokenizer()
    for label, name in enumerate(NAMES):
        mean = torch.zeros(12)
        for template in TEMPLATES:
            ids = torch.tensor([tokenizer(template.replace("{}", name))["input_ids"]])
            with torch.no_grad():
                out = model.text_projection(model.text_model(input_ids=ids).pooler_output)[0]
            mean += out / out.norm() / len(TEMPLATES)
        torch.testing.assert_close(head["classes"][label], mean / mean.norm(), rtol=1e-4, atol=1e-5)
    assert float(head["scale"]) == pytest.approx(float(model.logit_scale.detach().exp()))


def test_a_finished_head_is_read_and_not_made_again(clip, tmp_path, monkeypatch):
    prompts = Prompts(NAMES, TEMPLATES)
    first = zero_shot_head(clip, prompts, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1

    def never(*_):
        raise AssertionError("the text tower ran again")

    monkeypatch.setattr("moofusion.tasks.zero_shot._read_classes", never)
    again = zero_shot_head(clip, prompts, cache=tmp_path)
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_another_text_tower_tokenizer_template_or_name_makes_another_head(clip, tmp_path):
    kept = tmp_path / "heads"
    prompts = Prompts(NAMES, TEMPLATES)
    zero_shot_head(clip, prompts, cache=kept)
    zero_shot_head(clip, prompts.replaced(["cat", "dog", "rabbit"], None), cache=kept)
    zero_shot_head(clip, prompts.replaced(None, TEMPLATES[:1]), cache=kept)
    assert len(list(kept.iterdir())) == 3
    other = tmp_path / "other"
    shutil.copytree(clip, other)

    def text(tensors):
        tensors["text_model.encoder.layers.0.mlp.fc1.weight"][0, 0] += 1
        return tensors

    tiny.edit_weights(other, text)
    zero_shot_head(other, prompts, cache=kept)
    assert len(list(kept.iterdir())) == 4
    words = json.loads((other / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["a"], vocabulary["o"] = vocabulary["o"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(words))
    zero_shot_head(other, prompts, cache=kept)
    assert len(list(kept.iterdir())) == 5


def test_another_vision_tower_keeps_the_head(clip, tmp_path):
    """What the experts change must not cost a pass over the texts."""
    other = tmp_path / "other"
    shutil.copytree(clip, other)

    def vision(tensors):
        tensors["vision_model.encoder.layers.0.mlp.fc1.weight"] += 1
        return tensors

    tiny.edit_weights(other, vision)
    for folder in (clip, other):
        zero_shot_head(folder, Prompts(NAMES, TEMPLATES), cache=tmp_path / "heads")
    assert len(list((tmp_path / "heads").iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"not a head"])
def test_a_damaged_or_unwritable_cache_only_costs_time(clip, tmp_path, damage):
    prompts = Prompts(NAMES, TEMPLATES)
    first = zero_shot_head(clip, prompts, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    assert torch.equal(zero_shot_head(clip, prompts, cache=tmp_path)["classes"], first["classes"])
    blocked = zero_shot_head(clip, prompts, cache=file / "below")
    assert torch.equal(blocked["classes"], first["classes"])


def test_pools_of_a_whole_clip_and_vision_towers(root, clip, data, tmp_path):
    """The base's vision tower is merged; one-hot coefficients give the expert's weights."""
    experts = {n: root / "tanganke" / f"{FAMILY}_{n}" for n in ("mnist", "dtd")}
    loaded = ModelPool(clip, experts).load()
    names = [entry.name for entry in loaded.layout.entries]
    assert "encoder.layers.1.mlp.fc1.weight" in names
    assert not any("text" in name or "projection" in name for name in names)
    assert loaded.layout.partition("block").n_groups == 4  # stem, two blocks, final
    expert = _tower(experts["dtd"])
    loaded.model.weights.copy_(loaded.vectors.base + loaded.vectors.deltas[1])
    task = _task(data, clip, tmp_path)
    found = task.evaluate(loaded.model.modules["base"], "search").metrics["loss"]
    assert found == pytest.approx(task.evaluate(expert, "search").metrics["loss"], rel=1e-5)
    assert found != pytest.approx(task.evaluate(_tower(clip), "search").metrics["loss"], rel=1e-3)


def test_the_loss_has_gradients_and_copies_measure_the_same(clip, data, tmp_path):
    task, tower = _task(data, clip, tmp_path), _tower(clip)
    before = task.evaluate(tower, "search")
    task.loss(tower, "train", np.arange(4)).backward()
    assert float(tower.post_layernorm.weight.grad.abs().sum()) > 0
    copied = pickle.loads(pickle.dumps(task))
    assert copied._head == {}
    assert copied.evaluate(tower, "search") == before
    assert copied.fingerprint("search") == task.fingerprint("search")


def test_the_fingerprint_knows_the_head(clip, data, tmp_path):
    a, b = (_task(data, clip, tmp_path, templates=t) for t in (TEMPLATES, TEMPLATES[1:]))
    assert a.fingerprint("search") != b.fingerprint("search")


# ------------------------------------------------------------------------ names and order


def test_the_order_is_compared_without_case_and_punctuation():
    names = ["baseball diamond", "dense residential"]
    check_order("t", ["Baseball_Diamond", "dense-residential"], names)


def test_prompts_in_another_order_are_refused(data, clip):
    with pytest.raises(DataError, match=r"'pets'.*label 0 is 'cat' there and 'dog'.*2 of 3"):
        ZeroShotClassification(
            "pets", data, clip=clip, prompts=Prompts(("dog", "cat", "hare"), TEMPLATES)
        )


def test_one_name_in_common_is_enough_to_see_a_shift():
    with pytest.raises(DataError, match="label 1 is 'Sea'"):
        check_order("t", ["AnnualCrop", "Sea", "x"], ["sea", "annual crop land", "forest"])


def test_other_names_in_the_same_places_are_taken():
    check_order("t", ["AnnualCrop", "forest"], ["annual crop land", "Forest"])


def test_names_that_cannot_be_compared_give_a_warning():
    with pytest.warns(EvaluationWarning, match="'t'.*0, 1.*cannot be checked"):
        check_order("t", ["0", "1"], ["stop", "go"])


def test_another_number_of_classes(data, clip):
    with pytest.raises(DataError, match=r"3 classes.*prompts have 2.*class_names"):
        ZeroShotClassification("pets", data, clip=clip, prompts=Prompts(NAMES[:2], TEMPLATES))


def test_prompts_that_make_no_sense():
    with pytest.raises(DataError, match=r"no place \{\}"):
        Prompts(NAMES, ("a photo",))
    with pytest.raises(DataError, match="at least one"):
        Prompts(NAMES, ())
    with pytest.raises(UnknownNameError, match="'sun379'; did you mean 'sun397'"):
        Prompts.shipped("sun379")


def test_shipped_prompts_have_the_published_counts():
    counts = {"sun397": (397, 2), "stanford_cars": (196, 8), "resisc45": (45, 18)}
    counts |= {"eurosat": (10, 3), "svhn": (10, 1), "gtsrb": (43, 3), "mnist": (10, 1)}
    counts |= {"dtd": (47, 8)}
    for name, (classes, templates) in counts.items():
        prompts = Prompts.shipped(name)
        assert (len(set(prompts.class_names)), len(prompts.templates)) == (classes, templates)


# ------------------------------------------------------------------------------- what is missing


def test_a_vision_tower_has_no_texts(root, data, tmp_path):
    tower = root / "tanganke" / f"{FAMILY}_mnist"
    task = _task(data, tower, tmp_path)
    with pytest.raises(PoolError, match=r"'pets'.*CLIPVisionModel.*no text tower"):
        task.head_tensors()


def test_no_tokenizer_beside_the_text_tower(clip, data, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(clip, bare, ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    with pytest.raises(DataError, match=r"no tokenizer in .*bare"):
        _task(data, bare, tmp_path).head_tensors()
