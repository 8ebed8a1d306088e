"""Classification tasks: metrics against scikit-learn and torch, batches, losses, bad data."""

import pickle

import numpy as np
import pytest
import tiny
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.nn.functional import cross_entropy

from moofusion.errors import ConfigurationError, DataError, UnknownNameError
from moofusion.tasks import ImageClassification, Measurement, Metric, TensorClassification


class Echo(torch.nn.Module):
    """A module whose scores are its input, so that metrics can be computed by others."""

    def forward(self, input):
        return input


def _scores(n=97, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, classes, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return scores, labels


def _task(scores, labels, classes=5, **options):
    return TensorClassification("echo", {"search": (scores, labels)}, classes=classes, **options)


@pytest.mark.parametrize("seed", range(4))
def test_metrics_agree_with_scikit_learn_and_torch(seed):
    scores, labels = _scores(seed=seed)
    found = _task(scores, labels).evaluate(Echo(), "search")
    guess = scores.argmax(1)
    assert found.n_samples == 97
    assert {key: value for key, value in found.metrics.items() if key != "ece"} == {
        "accuracy": pytest.approx(accuracy_score(labels, guess)),
        "macro_f1": pytest.approx(f1_score(labels, guess, average="macro")),
        "loss": pytest.approx(float(cross_entropy(scores.double(), labels)), rel=1e-6),
    }


def test_classes_that_never_occur_do_not_count_in_macro_f1():
    scores, labels = _scores(n=12, classes=9)
    labels = labels % 4
    found = _task(scores, labels, classes=9).evaluate(Echo(), "search")
    expected = f1_score(labels, scores.argmax(1), average="macro")
    assert found.metrics["macro_f1"] == pytest.approx(expected)


def test_classes_that_are_only_predicted_count_as_zero():
    scores = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    found = _task(scores, torch.tensor([0, 0]), classes=3).evaluate(Echo(), "search")
    assert found.metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize("batch_size", [1, 7, 96, 97, 500])
def test_the_batch_size_does_not_change_the_metrics(batch_size):
    scores, labels = _scores()
    expected = _task(scores, labels, batch_size=32).evaluate(Echo(), "search").metrics
    found = _task(scores, labels, batch_size=batch_size).evaluate(Echo(), "search").metrics
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_objective_is_the_error_by_default():
    task = _task(*_scores())
    assert task.objective.objective(0.75) == 0.25
    assert task.objective.objective_name == "error"
    assert task.objective.value(0.25) == 0.75


@pytest.mark.parametrize(("objective", "value"), [("macro_f1", 0.7), ("loss", 0.3)])
def test_other_objectives(objective, value):
    task = _task(*_scores(), objective=objective)
    assert task.objective.objective(0.3) == pytest.approx(value)


def test_modules_are_called_by_keyword_and_may_return_an_output_object(images, vit_pool, vit_tasks):
    module = vit_pool.load().model.modules["dots"]
    pixels, labels = vit_tasks[0].data("search")
    task = TensorClassification(
        "dots", {"search": (pixels, labels)}, classes=images["dots"].classes
    )
    found = task.evaluate(module, "search").metrics
    assert found == pytest.approx(vit_tasks[0].evaluate(module, "search").metrics, rel=1e-6)


def test_other_models_may_be_called_in_another_way():
    scores, labels = _scores()
    task = _task(scores, labels, forward=lambda module, inputs: -module(inputs["input"]))
    found = task.evaluate(Echo(), "search").metrics["accuracy"]
    assert found == pytest.approx(accuracy_score(labels, scores.argmin(1)))


# ---------------------------------------------------------------------------------- splits


def test_splits_are_separate():
    (a, la), (b, lb) = _scores(seed=1), _scores(n=40, seed=2)
    task = TensorClassification("two", {"search": (a, la), "test": (b, lb)}, classes=5)
    assert task.has_split("test")
    assert not task.has_split("train")
    assert (task.n_samples("search"), task.n_samples("test")) == (97, 40)
    found = task.evaluate(Echo(), "test")
    assert found.metrics["accuracy"] == pytest.approx(accuracy_score(lb, b.argmax(1)))
    assert found.n_samples == 40
    assert "search=97, test=40" in repr(task)


@pytest.mark.parametrize("call", ["evaluate", "loss", "n_samples", "data", "fingerprint"])
def test_a_split_that_was_not_given_is_named(call):
    task = _task(*_scores())
    with pytest.raises(DataError, match="'echo' was built without a 'test' split"):
        _call(task, call, "test")


@pytest.mark.parametrize("call", ["evaluate", "loss", "n_samples", "data", "fingerprint"])
def test_an_unknown_split_is_refused(call):
    with pytest.raises(UnknownNameError, match="unknown split 'serch'; did you mean 'search'"):
        _call(_task(*_scores()), call, "serch")


def _call(task, call, split):
    if call in ("evaluate", "loss"):
        return getattr(task, call)(Echo(), split)
    return getattr(task, call)(split)


def test_a_split_of_an_unknown_name_cannot_be_given():
    with pytest.raises(DataError, match="validation"):
        TensorClassification("x", {"validation": _scores()}, classes=5)


# -------------------------------------------------------------------------------- bad data


@pytest.mark.parametrize("label", [-1, 5, 100])
def test_a_label_out_of_range(label):
    scores, labels = _scores()
    labels[13] = label
    with pytest.raises(DataError, match="'echo', split 'search': labels run from") as caught:
        _task(scores, labels).evaluate(Echo(), "search")
    assert str(label) in str(caught.value)
    assert "expected 0 to 4" in str(caught.value)


def test_an_empty_split():
    task = _task(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))
    with pytest.raises(DataError, match="'echo': split 'search' is empty"):
        task.evaluate(Echo(), "search")


def test_fewer_labels_than_inputs():
    scores, labels = _scores()
    with pytest.raises(DataError, match="97 rows of input, but 90 labels"):
        _task(scores, labels[:90]).evaluate(Echo(), "search")


def test_a_head_for_another_number_of_classes():
    scores, labels = _scores()
    with pytest.raises(ConfigurationError, match="7 classes") as caught:
        _task(scores, labels, classes=7).evaluate(Echo(), "search")
    assert "gives 5 scores" in str(caught.value)
    assert "'echo'" in str(caught.value)


def test_a_batch_size_of_nothing():
    with pytest.raises(ConfigurationError, match="batch_size must be positive"):
        _task(*_scores(), batch_size=0)


def test_an_unknown_objective():
    with pytest.raises(UnknownNameError, match=r"metric of task 'echo' 'acuracy'.*'accuracy'"):
        _task(*_scores(), objective="acuracy")


def test_a_metric_needs_a_direction():
    with pytest.raises(ConfigurationError, match="'max' or 'min', got 'up'"):
        Metric("speed", "up")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_measurements_know_whether_they_are_numbers(value):
    assert Measurement({"a": 1.0}, 3).is_finite
    assert not Measurement({"a": 1.0, "b": value}, 3).is_finite


# --------------------------------------------------------------------------------- losses


def _net_task():
    pool = tiny.net_pool()
    return tiny.net_tasks(pool, ["a"], batch_size=16)[0]


def test_the_loss_is_the_mean_cross_entropy_with_a_gradient():
    task, model = _net_task(), tiny.net(1)
    inputs, labels = task.data("train")
    loss = task.loss(model, "train")
    expected = cross_entropy(model(inputs["input"]), labels)
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_loss_of_some_samples():
    task, model = _net_task(), tiny.net(1)
    rows = np.array([3, 3, 41, 0])
    inputs, labels = task.data("train")
    expected = cross_entropy(model(inputs["input"][rows]), labels[rows])
    assert task.loss(model, "train", rows).item() == pytest.approx(expected.item())


# --------------------------------------------------------------------- copies, fingerprints


def test_pickles_leave_preprocessed_tensors_behind(vit_tasks):
    before = len(pickle.dumps(vit_tasks[0]))
    vit_tasks[0].data("search")
    assert len(pickle.dumps(vit_tasks[0])) < before + 4000


def test_fingerprints_tell_data_labels_and_splits_apart():
    scores, labels = _scores()
    other, changed = scores.clone(), labels.clone()
    other[50, 2] += 1e-6
    changed[50] = (changed[50] + 1) % 5
    tasks = [_task(scores, labels), _task(other, labels), _task(scores, changed)]
    found = {task.fingerprint("search") for task in tasks}
    assert len(found) == 3
    assert _task(scores, labels).fingerprint("search") in found


def test_a_model_without_a_head_is_refused(vit_folders, images):
    from transformers import ViTModel

    body = ViTModel.from_pretrained(vit_folders.base).eval()
    task = ImageClassification("dots", images["dots"], processor=vit_folders.base)
    with pytest.raises(ConfigurationError, match="measured with ViTModel, which gives no class"):
        task.evaluate(body, "search")
