"""Gradients of the losses with respect to decision vectors."""

import numpy as np
import pytest
import tiny

from moofusion.errors import ConfigurationError, DataError
from moofusion.problems import MergeProblem
from moofusion.tasks import FunctionTask, ImageClassification, LabelledData, TextClassification
from moofusion.weights import ModelPool

SPACES = {
    "task-wise": "task-wise",
    "block-wise": "block-wise",
    "tensor-wise": "tensor-wise",
    "simplex": "simplex",
    "simplex-blocks": {"kind": "simplex", "granularity": "block"},
    "spline": {"kind": "depth-spline", "controls": 3},
    "mlp": {"kind": "block-wise", "select": "mlp"},
}


def _slopes(problem, x, moves, step=4e-3):
    """Central differences of all objectives along some directions, shape ``(moves, M)``."""
    ends = [problem.evaluate(np.stack([x + step * m, x - step * m])) for m in moves]
    return np.array([(up - down) / (2 * step) for up, down in ends])


def _check(problem, rng, count=6):
    x = rng.uniform(0.2, 0.6, problem.n_var)
    F, dF = problem.evaluate(x[None], return_values_of=["F", "dF"])
    assert F.shape == (1, problem.n_obj)
    assert dF.shape == (1, problem.n_obj, problem.n_var)
    moves = rng.normal(size=(count, problem.n_var))
    moves /= np.linalg.norm(moves, axis=1, keepdims=True)
    assert moves @ dF[0].T == pytest.approx(_slopes(problem, x, moves), rel=0.01, abs=2e-3)
    assert np.abs(dF).max() > 0.01


@pytest.mark.parametrize("space", SPACES)
def test_derivatives_agree_with_finite_differences(space, rng):
    _check(tiny.net_problem(objective="loss", space=SPACES[space]), rng)


def test_derivatives_of_image_classifiers(vit_pool, images, vit_folders, rng):
    tasks = [
        ImageClassification(name, data, processor=vit_folders.base, objective="loss")
        for name, data in images.items()
    ]
    _check(MergeProblem(vit_pool, tasks, space="block-wise"), rng, count=3)


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_derivatives_of_text_classifiers(architecture, rng):
    import transformers

    base, expert = {
        "bert": (transformers.BertModel, transformers.BertForSequenceClassification),
        "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2ForSequenceClassification),
    }[architecture]
    config = {"bert": tiny.bert_config, "gpt2": tiny.gpt2_config}[architecture]
    experts = {
        name: tiny.drift(tiny.build(expert, config(labels=3), 1), seed, 0.2)
        for seed, name in enumerate(("x", "y"))
    }
    tasks = [
        TextClassification(
            name,
            LabelledData(
                {"search": tiny.sentences(30, seed)},
                {"search": np.random.default_rng(seed).integers(0, 3, 30)},
                ("p", "q", "r"),
            ),
            tokenizer=tiny.tokenizer(),
            objective="loss",
        )
        for seed, name in enumerate(experts)
    ]
    _check(MergeProblem(ModelPool(tiny.build(base, config()), experts), tasks), rng, count=3)


def test_several_candidates_at_once():
    problem = tiny.net_problem(objective="loss")
    X = np.array([[0.2, 0.3, 0.4], [0.0, 1.0, 0.0]])
    F, dF = problem.evaluate(X, return_values_of=["F", "dF"])
    assert dF.shape == (2, 3, 3)
    for x, f, df in zip(X, F, dF, strict=True):
        alone = problem.evaluate(x[None], return_values_of=["F", "dF"])
        assert (alone[0][0] == f).all()
        assert alone[1][0] == pytest.approx(df)


def test_derivatives_are_paid_for():
    problem = tiny.net_problem(objective="loss")
    problem.evaluate(np.full((2, 3), 0.3), return_values_of=["F", "dF"])
    assert problem.counter.backward == 2 * 3 * tiny.SIZES["search"]


def test_nothing_is_differentiated_unless_asked_for(problem):
    problem.evaluate(np.full((2, 3), 0.3))
    assert problem.counter.backward == 0


@pytest.mark.parametrize("objective", ["accuracy", "macro_f1"])
def test_metrics_without_a_derivative_are_refused(objective):
    problem = tiny.net_problem(objective=objective)
    with pytest.raises(ConfigurationError, match=f"'a' measures '{objective}'") as caught:
        problem.evaluate(np.full((1, 3), 0.3), return_values_of=["F", "dF"])
    assert "objective 'loss'" in str(caught.value)


def test_gradients_of_the_train_split_by_name_and_number(problem):
    x = np.array([0.2, 0.3, 0.4])
    loss, gradient = problem.loss_and_grad(x, "b")
    again = problem.loss_and_grad(x, 1)
    assert loss == again[0]
    assert (gradient == again[1]).all()
    assert gradient.shape == (3,)
    step = 4e-3 * np.eye(3)
    slopes = [
        (problem.loss_and_grad(x + s, "b")[0] - problem.loss_and_grad(x - s, "b")[0]) / 8e-3
        for s in step
    ]
    assert gradient == pytest.approx(slopes, rel=0.01, abs=2e-3)


def test_minibatches_average_to_the_whole(problem):
    x = np.array([0.2, 0.3, 0.4])
    whole = problem.loss_and_grad(x, "a")
    parts = [problem.loss_and_grad(x, "a", indices=np.arange(i, 60, 3)) for i in range(3)]
    assert np.mean([loss for loss, _ in parts]) == pytest.approx(whole[0], rel=1e-5)
    assert np.mean([g for _, g in parts], axis=0) == pytest.approx(whole[1], rel=1e-4, abs=1e-6)


def test_descending_the_gradient_lowers_the_loss(problem):
    x, losses = np.full(3, 0.3), []
    for _ in range(10):
        loss, gradient = problem.loss_and_grad(x, "c")
        losses.append(loss)
        x = x - 0.1 * gradient
    assert losses[-1] < 0.9 * losses[0]


def test_a_task_without_training_data_or_loss_says_so():
    pool = tiny.net_pool()
    size = FunctionTask("size", lambda m: 1.0)
    problem = MergeProblem(pool, [*tiny.net_tasks(pool, ["a"]), size])
    with pytest.raises(DataError, match="'size' was built without a 'train' split"):
        problem.loss_and_grad(np.zeros(3), "size")
    with pytest.raises(ConfigurationError, match="'size' has no samples to differentiate on"):
        problem.loss_and_grad(np.zeros(3), "size", split="search")
    with pytest.raises(ConfigurationError, match="'a' has no samples"):
        problem.loss_and_grad(np.zeros(3), "a", indices=np.array([], int))


def test_single_evaluations_give_the_same_jacobian():
    X = np.array([[0.3, 0.2, 0.1], [0.0, 0.5, 0.4]])
    whole = tiny.net_problem(objective="loss").evaluate(X, return_values_of=["F", "dF"])
    single = tiny.net_problem(objective="loss", elementwise=True)
    for found, expected in zip(
        single.evaluate(X, return_values_of=["F", "dF"]), whole, strict=True
    ):
        np.testing.assert_array_equal(found, expected)
