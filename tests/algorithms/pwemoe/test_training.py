"""Training a router: descent, exact resumption, fresh weights, any architecture and precision."""

import copy

import numpy as np
import pytest
import tiny
import torch
import transformers

from moofusion.algorithms import ParetoRouter, RouterTraining
from moofusion.errors import ConfigurationError, DataError, RunError
from moofusion.problems import MergeProblem
from moofusion.tasks import FunctionTask, LabelledData, TensorClassification, TextClassification
from moofusion.weights import ModelPool

SPACE = {"kind": "module-wise", "lower": -2.0, "upper": 3.0}


def _training(problem=None, *, steps=30, seed=3, router=None, **options):
    problem = problem or tiny.net_problem(space=SPACE)
    rng = np.random.default_rng(0)
    router = router or ParetoRouter(problem, routed=options.pop("routed", "all"), rng=rng)
    options = {"batch_size": 8, "lr": 3e-2} | options
    return RouterTraining(problem, router, steps=steps, seed=seed, **options)


def _weighted_loss(problem, router):
    """Mean of sum_k r_k loss_k on the train split over a few preferences."""
    R = np.vstack([np.eye(3), np.full(3, 1 / 3)])
    X = router.batch(R).reshape(len(R), -1)
    return float(np.mean([r @ problem.losses_and_grads(x)[0] for r, x in zip(R, X, strict=True)]))


@pytest.mark.parametrize("scalarization", ["ls", "epo", "smooth_tchebycheff"])
def test_training_lowers_the_losses(scalarization):
    training = _training(steps=120, scalarization=scalarization)
    before = _weighted_loss(training.problem, training.router)
    training.run()
    assert _weighted_loss(training.problem, training.router) < 0.9 * before
    assert training.losses.shape == training.preferences.shape == (120, 3)
    assert training.fallbacks == 0


def test_a_conditioned_router_beats_a_constant_where_preferences_differ():
    found = {}
    for conditioned in (True, False):
        problem = tiny.net_problem(space=SPACE)
        rng = np.random.default_rng(0)
        router = ParetoRouter(problem, routed="all", conditioned=conditioned, rng=rng)
        found[conditioned] = _weighted_loss(
            problem, _training(problem, router=router, steps=600).run()
        )
    assert found[True] < 0.95 * found[False]


def test_the_coefficients_answer_to_the_preference():
    """With a learning rate of 1e-5, as in one shipped configuration, they would not."""
    R = np.eye(3)
    spread = {}
    for lr in (1e-5, 3e-2):
        L = _training(steps=100, lr=lr).run().batch(R)
        spread[lr] = np.ptp(L, axis=0).max()
    assert spread[1e-5] < 2e-3
    assert spread[3e-2] > 0.1


def test_the_optimizer_sees_the_weights_of_the_step_before():
    """No merged weights are kept between steps: the same batch shows the changed router."""
    training = _training(steps=5)
    problem, r = training.problem, np.array([0.2, 0.3, 0.5])

    def look():
        L = training.router.coefficients(r)
        return problem.losses_and_grads(L.ravel())[0], problem.evaluator.weights(L)

    first, weights = look()
    training.step()
    second, moved = look()
    assert (first != second).all()
    assert not torch.equal(weights, moved)
    assert (look()[0] == second).all()


def test_two_backward_passes_with_one_preference():
    training = _training()
    x = training.router.coefficients([0.2, 0.3, 0.5]).ravel()
    first, again = (training.problem.losses_and_grads(x) for _ in range(2))
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()


def test_a_training_can_be_copied_half_way():
    training = _training(steps=10)
    for _ in range(5):
        training.step()
    twin = copy.deepcopy(training)
    assert twin.router is not training.router
    assert (training.run().theta == twin.run().theta).all()


def test_equal_seeds_give_equal_routers_and_others_do_not():
    first, second, other = (_training(seed=seed).run().theta for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()


# ------------------------------------------------------------------ resumption


@pytest.mark.parametrize("scalarization", ["ls", "epo"])
def test_an_interrupted_training_goes_on_bit_for_bit(scalarization, tmp_path, monkeypatch):
    monkeypatch.setattr("moofusion.algorithms.pwemoe.training._EVERY", 10)
    whole = _training(scalarization=scalarization)
    whole.run()
    file = tmp_path / "training.safetensors"
    broken = _training(scalarization=scalarization, checkpoint=file)
    step = broken.step

    def fail():
        if broken.done == 17:
            raise KeyboardInterrupt
        step()

    broken.step = fail
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again = _training(scalarization=scalarization, checkpoint=file)
    assert again.done == 10
    again.run()
    assert (again.router.theta == whole.router.theta).all()
    assert (again.losses == whole.losses).all()
    assert (again.preferences == whole.preferences).all()
    assert again.fallbacks == whole.fallbacks
    finished = _training(scalarization=scalarization, checkpoint=file)
    spent = finished.problem.counter.backward
    finished.run()
    assert finished.problem.counter.backward == spent
    assert (finished.router.theta == whole.router.theta).all()
    assert file.stat().st_size < 20_000


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    file = tmp_path / "training.safetensors"
    _training(steps=2, checkpoint=file).run()
    with pytest.raises(RunError, match=r"another training \(lr differs: 0.03, not 0.5\)"):
        _training(steps=2, checkpoint=file, lr=0.5)
    with pytest.raises(RunError, match=r"\(made_for differs\)"):
        _training(tiny.net_problem(("b", "a", "c"), space=SPACE), steps=2, checkpoint=file)


# ------------------------------------------------------------------ order, mistakes, progress


def test_losses_follow_the_tasks_and_gradients_the_experts():
    """Permuting the experts permutes the columns of the gradient, not the losses."""
    rng = np.random.default_rng(0)
    L = rng.uniform(0, 1, 3)
    first = tiny.net_problem(("a", "b", "c"))
    pool = tiny.net_pool(("a", "b", "c"))
    other = MergeProblem(
        ModelPool(pool.base, {name: pool.experts[name] for name in "cab"}),
        [tiny.net_tasks(pool)[k] for k in (1, 2, 0)],
    )
    losses, J = first.losses_and_grads(L)
    moved, K = other.losses_and_grads(L[[2, 0, 1]])
    assert moved == pytest.approx(losses[[1, 2, 0]], rel=1e-5)
    assert pytest.approx(J[[1, 2, 0]][:, [2, 0, 1]], rel=1e-3, abs=1e-6) == K


def test_preferring_a_task_lowers_its_loss_most():
    """Also where tasks and experts come in different orders."""
    problem = tiny.net_problem(("a", "b", "c"), ("c", "a", "b"), space=SPACE)
    router = _training(problem, steps=200).run()
    losses = np.array([problem.losses_and_grads(L.ravel())[0] for L in router.batch(np.eye(3))])
    assert losses.argmin(axis=0).tolist() == [0, 1, 2]


def test_tasks_without_losses_or_training_data_are_refused_before_anything_is_paid():
    pool = tiny.net_pool()
    size = FunctionTask("size", lambda m: 1.0)
    problem = MergeProblem(pool, [*tiny.net_tasks(pool), size], space=SPACE)
    with pytest.raises(ConfigurationError, match=r"'size' .* has no differentiable loss"):
        _training(problem)
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    blind = TensorClassification("a", {"search": (x, y)}, classes=3)
    problem = MergeProblem(pool, [blind], space=SPACE)
    with pytest.raises(DataError, match="'a' was built without a 'train' split"):
        _training(problem)
    assert problem.counter.cost == 0


def test_a_loss_that_is_not_finite_ends_the_training():
    training = _training(lr=1e30, steps=20)
    with pytest.raises(ConfigurationError, match=r"is not finite .*; lower the learning rate"):
        training.run()


def test_a_bar_shows_the_losses(capsys):
    _training(steps=3, progress=True).run()
    shown = capsys.readouterr().err
    assert "3/3" in shown


# ------------------------------------------------------------------ architectures and precision


def _texts(name, seed):
    labels = np.random.default_rng(seed).integers(0, 3, 30)
    items = tiny.sentences(30, seed)
    splits = {"train": items, "search": items}
    data = LabelledData(splits, dict.fromkeys(splits, labels), ("p", "q", "r"))
    return TextClassification(name, data, tokenizer=tiny.tokenizer())


def _pictures(name, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 1, 8, 8, generator=generator)
    y = torch.randint(0, 3, (20,), generator=generator)
    both = ({"pixel_values": x}, y)
    return TensorClassification(name, {"train": both, "search": both}, classes=3)


def _clip_config(labels=3):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = sizes | {"intermediate_size": 32, "image_size": 8, "patch_size": 4, "num_channels": 1}
    return transformers.CLIPConfig(
        vision_config=vision, text_config=sizes | {"intermediate_size": 32}, num_labels=labels
    )


ARCHITECTURES = {
    "vit": ("ViTForImageClassification", lambda: tiny.vit_config(3), _pictures),
    "clip": ("CLIPForImageClassification", _clip_config, _pictures),
    "bert": ("BertForSequenceClassification", lambda: tiny.bert_config(3), _texts),
    "gpt2": ("GPT2ForSequenceClassification", lambda: tiny.gpt2_config(3), _texts),
    "llama": ("LlamaForSequenceClassification", lambda: tiny.llama_config(3), _texts),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in ARCHITECTURES), ("vit", torch.bfloat16),
     ("llama", torch.float16)],
)  # fmt: skip
def test_architectures_are_routed_without_paths_written_by_hand(name, dtype):
    kind, config, data = ARCHITECTURES[name]
    kind = getattr(transformers, kind)
    base = tiny.build(kind, config(), 0).to(dtype)
    experts = {
        name: tiny.drift(tiny.build(kind, config(), 0), seed).to(dtype)
        for seed, name in enumerate("xy", start=1)
    }
    tasks = [data(k, i) for i, k in enumerate(experts)]
    problem = MergeProblem(ModelPool(base, experts), tasks, space=SPACE)
    training = _training(problem, routed="mlp", steps=4)
    router = training.run()
    assert len(router.names) == 2
    assert all(name.endswith(":mlp") for name in router.names)
    assert router.n_parameters == 2 * 22
    arithmetic = np.full((len(router.rows), 2), 0.3)
    evaluator = problem.evaluator
    moved = evaluator.weights(router.coefficients([0.3, 0.7])) - evaluator.weights(arithmetic)
    for entry in evaluator.pool.layout.entries:
        changed = bool(moved[entry.slice].any())
        assert changed == (entry.role == "mlp"), entry.name
    assert np.isfinite(training.losses).all()


def test_weight_decay_pulls_the_parameters_of_the_router_towards_zero(tmp_path):
    """As AdamW does: from equal steps, a share of lr times decay less for every step."""
    thetas = {}
    for decay in (0.0, 2.0):
        training = _training(steps=1, weight_decay=decay, checkpoint=tmp_path / f"{decay}.st")
        start = training.router.theta.copy()
        thetas[decay] = training.run().theta
    assert thetas[2.0] == pytest.approx(thetas[0.0] - 2.0 * 3e-2 * start, rel=1e-9)
    with pytest.raises(RunError, match=r"weight_decay differs: 2\.0, not 0\.0"):
        _training(steps=1, checkpoint=tmp_path / "2.0.st")
