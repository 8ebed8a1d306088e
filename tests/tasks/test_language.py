"""Language tasks against the obvious slow way: one text, one token after the other."""

import math
import pickle

import numpy as np
import pytest
import tiny
import torch

from moofusion import MergeProblem, ModelPool
from moofusion.algorithms.gradients import step_cost
from moofusion.errors import ConfigurationError, DataError
from moofusion.tasks import Generation, LanguageModeling, MultipleChoice, Question


def _tokenizer(**special):
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _model(name="gpt2", seed=3, eos=None):
    import transformers

    classes = {
        "gpt2": (transformers.GPT2LMHeadModel, tiny.gpt2_config),
        "llama": (transformers.LlamaForCausalLM, tiny.llama_config),
    }
    model_class, config = classes[name]
    model = tiny.build(model_class, config(eos_token_id=eos), seed)
    return tiny.drift(model, 4, 0.4)


def _next(model, ids):
    """Log-probabilities of the next token after `ids`."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(0)


TEXTS = tiny.sentences(9, seed=5)


# ------------------------------------------------------------------------------- perplexity


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize(("context", "batch"), [(6, 1), (6, 4), (20, 3)])
def test_every_token_is_predicted_once_from_its_window(architecture, context, batch):
    model, tokenizer = _model(architecture), _tokenizer(bos_token="[UNK]")
    task = LanguageModeling(
        "t", {"search": TEXTS}, tokenizer=tokenizer, context=context, batch_size=batch
    )
    stream = [t for text in TEXTS for t in [1, *tokenizer(text)["input_ids"]]]
    total = 0.0
    for i in range(1, len(stream)):
        first = (i - 1) // (context - 1) * (context - 1)
        total -= float(_next(model, stream[first:i])[stream[i]])
    found = task.evaluate(model, "search")
    mean = total / (len(stream) - 1)
    assert found.metrics["loss"] == pytest.approx(mean, rel=1e-5)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    size = sum(len(text.encode()) for text in TEXTS)
    assert found.metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-5)
    assert found.n_samples == task.n_samples("search")
    assert float(task.loss(model, "search").detach()) == pytest.approx(mean, rel=1e-5)


def test_without_a_beginning_token_the_first_token_is_given():
    model = _model()
    task = LanguageModeling("t", {"search": ["b a"]}, tokenizer=tiny.tokenizer())
    b, a = tiny.tokenizer()("b a")["input_ids"]
    bits = -float(_next(model, [b])[a]) / math.log(2)
    assert task.evaluate(model, "search").metrics["bits_per_byte"] == pytest.approx(bits / 2)


def test_texts_that_cannot_be_predicted():
    with pytest.raises(DataError, match="no two tokens"):
        LanguageModeling("t", {"search": ["a"]}, tokenizer=tiny.tokenizer()).data("search")
    with pytest.raises(DataError, match="'search' is empty"):
        LanguageModeling("t", {"search": []}, tokenizer=tiny.tokenizer())
    with pytest.raises(DataError, match="unknown splits"):
        LanguageModeling("t", {"valid": ["a b"]}, tokenizer=tiny.tokenizer())


def test_a_classifier_cannot_predict_text():
    from transformers import GPT2ForSequenceClassification

    model = tiny.build(GPT2ForSequenceClassification, tiny.gpt2_config())
    task = LanguageModeling("t", {"search": ["a b c"]}, tokenizer=tiny.tokenizer())
    with pytest.raises(ConfigurationError, match="GPT2ForSequenceClassification gives no scores"):
        task.evaluate(model, "search")


def test_windows_longer_than_the_model_are_refused():
    task = LanguageModeling("t", {"search": TEXTS}, tokenizer=tiny.tokenizer(), context=25)
    with pytest.raises(ConfigurationError, match=r"25 tokens.*at most 24; set context"):
        task.evaluate(_model(), "search")


# -------------------------------------------------------------------------- multiple choice

QUESTIONS = [
    Question("a b", (" c", " d e f", " g h"), 1),
    Question("c", (" d", " e"), 0),
    Question("e f g h i", (" j k", " l"), 1),
    Question("k l", (" m", " n", " o", " p"), 2),
    Question("p", (" a b c", " b"), 0),
]


def _log_likelihood(model, prompt, choice):
    tokenizer, total = tiny.tokenizer(), 0.0
    ids = tokenizer(prompt)["input_ids"]
    for token in tokenizer(choice)["input_ids"]:
        total += float(_next(model, ids)[token])
        ids = [*ids, token]
    return total


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_choices_score_the_likelihood_of_their_tokens(batch):
    model = _model()
    task = MultipleChoice("t", {"search": QUESTIONS}, tokenizer=tiny.tokenizer(), batch_size=batch)
    hits, rated, loss = [], [], []
    for question in QUESTIONS:
        scores = np.array([_log_likelihood(model, question.prompt, c) for c in question.choices])
        sizes = np.array([len(c) for c in question.choices])
        hits.append(scores.argmax() == question.answer)
        rated.append((scores / sizes).argmax() == question.answer)
        loss.append(np.log(np.exp(scores).sum()) - scores[question.answer])
    found = task.evaluate(model, "search")
    assert found.metrics["accuracy"] == np.mean(hits)
    assert found.metrics["accuracy_norm"] == np.mean(rated)
    assert found.metrics["loss"] == pytest.approx(np.mean(loss), rel=1e-5)
    part = float(task.loss(model, "search", np.array([3, 1])).detach())
    assert part == pytest.approx((loss[3] + loss[1]) / 2, rel=1e-5)


def test_every_choice_costs_a_pass():
    """What is announced, measured, counted and really run are the same."""
    sequences = []
    task = MultipleChoice(
        "t", {"train": QUESTIONS, "search": QUESTIONS}, tokenizer=tiny.tokenizer(), objective="loss"
    )
    pool = ModelPool(_model(seed=1), {"a": _model(seed=2)})
    problem = MergeProblem(pool, [task], device="cpu")
    module = problem.evaluator.module(task)
    module.register_forward_hook(
        lambda _, args, kwargs, out: sequences.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    choices = sum(len(question.choices) for question in QUESTIONS)

    assert task.n_samples("search") == len(QUESTIONS)
    paid = problem.evaluate(np.array([[0.5]]), return_values_of=["cost"])
    assert paid[0] == choices == sum(sequences) == task.passes("search")[0]

    told = []
    problem.gradient_observers.append(lambda cost, seconds: told.append(cost))
    problem.loss_and_grad(np.array([0.5]), "t", indices=np.array([0, 3]))
    assert told == [3 * (3 + 4)]
    assert sum(sequences) == choices + 7
    assert (problem.counter.forward, problem.counter.backward) == (choices, 7)
    # Batches of two questions of these five cost that much on average.
    assert step_cost(problem, 2) == pytest.approx(3 * choices * 2 / 5)


def test_a_blank_at_the_end_of_a_prompt_changes_nothing():
    first = MultipleChoice("t", {"search": QUESTIONS[:1]}, tokenizer=tiny.tokenizer())
    moved = Question("a b ", ("c", "d e f", "g h"), 1)
    second = MultipleChoice("t", {"search": [moved]}, tokenizer=tiny.tokenizer())
    for key in ("ids", "predicted"):
        assert torch.equal(first.data("search")[key], second.data("search")[key])


def test_long_prompts_lose_their_beginning():
    long = Question("a b c d e f g", (" h i", " j"), 0)
    task = MultipleChoice("t", {"search": [long]}, tokenizer=tiny.tokenizer(), max_length=4)
    data = task.data("search")
    assert tiny.tokenizer().decode(data["ids"][0]).split() == list("fghi")
    assert data["predicted"][0].tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("prompt", "choices", "answer", "message"),
    [
        ("a", ("b",), 0, "at least two choices"),
        ("a", ("b", ""), 0, "none of them empty"),
        ("a", ("b", "c"), 2, "answer 2 is none of the 2 choices"),
    ],
)
def test_questions_that_make_no_sense(prompt, choices, answer, message):
    with pytest.raises(DataError, match=message):
        Question(prompt, choices, answer)


def test_a_question_without_context_needs_a_beginning_token():
    items = {"search": [Question("", ("a", "b"), 0)]}
    with pytest.raises(DataError, match="less than two tokens"):
        MultipleChoice("t", items, tokenizer=tiny.tokenizer()).data("search")
    task = MultipleChoice("t", items, tokenizer=_tokenizer(bos_token="[UNK]"))
    found = task.scores(_model(), "search", [0])[0][0]
    first = _next(_model(), [1])
    assert found.tolist() == pytest.approx([float(first[2]), float(first[3])], rel=1e-4)


# ------------------------------------------------------------------------------- generation


def _greedy(model, prompt, most, end):
    ids, out = tiny.tokenizer()(prompt)["input_ids"], []
    while len(out) < most:
        out.append(int(_next(model, ids + out).argmax()))
        if out[-1] == end:
            break
    return out


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("batch", [1, 4])
def test_generation_is_greedy_token_by_token(architecture, batch):
    model = _model(architecture)
    prompts = tiny.sentences(7, seed=2, longest=8)
    plain = [_greedy(model, prompt, 6, None) for prompt in prompts]
    end = plain[0][2]  # a token that does occur
    model.generation_config.eos_token_id = end
    expected = [_greedy(model, prompt, 6, end) for prompt in prompts]
    assert {len(row) for row in expected} > {6} or min(map(len, expected)) < 6
    texts = [tiny.tokenizer().decode(row, skip_special_tokens=True) for row in expected]
    examples = [
        (p, t if i % 2 else "?") for i, (p, t) in enumerate(zip(prompts, texts, strict=True))
    ]
    task = Generation(
        "t", {"search": examples}, tokenizer=tiny.tokenizer(), max_new_tokens=6, batch_size=batch
    )
    assert task.generate(model, "search") == expected
    found = task.evaluate(model, "search").metrics
    assert found["exact_match"] == pytest.approx(3 / 7)
    assert found["tokens"] == pytest.approx(np.mean([len(row) for row in expected]))


def test_answers_are_found_by_a_pattern():
    task = Generation(
        "t", {"search": [("a", "12")]}, tokenizer=tiny.tokenizer(), pattern=r"#### (\d+)"
    )
    assert task.answer("first #### 3, then #### 12 .") == "12"
    assert task.answer("no number") is None
    for pattern, message in (("(", "no regular expression"), ("a", "has 0 groups, expected one")):
        with pytest.raises(ConfigurationError, match=message):
            Generation("t", {"search": [("a", "b")]}, tokenizer=tiny.tokenizer(), pattern=pattern)


def test_generation_has_no_gradient_and_needs_a_generator():
    task = Generation("t", {"search": [("a", "b")]}, tokenizer=tiny.tokenizer())
    with pytest.raises(ConfigurationError, match="no differentiable loss"):
        task.loss(_model(), "search")
    with pytest.raises(ConfigurationError, match="Linear cannot generate"):
        task.evaluate(torch.nn.Linear(1, 1), "search")


# --------------------------------------------------------------------------------- together


def test_accuracy_against_token_cost_as_a_problem():
    pool = ModelPool(_model(seed=1), {"a": _model(seed=2), "b": _model(seed=6)})
    examples = {"search": [(text, "a b") for text in TEXTS]}
    options = {"tokenizer": tiny.tokenizer(), "max_new_tokens": 4}
    tasks = [
        LanguageModeling("corpus", {s: TEXTS for s in ("train", "search")},
                         tokenizer=tiny.tokenizer(), context=8, objective="loss"),
        MultipleChoice("quiz", {"train": QUESTIONS, "search": QUESTIONS},
                       tokenizer=tiny.tokenizer(), objective="loss"),
        Generation("right", examples, **options),
        Generation("short", examples, objective="tokens", **options),
    ]  # fmt: skip
    problem = MergeProblem(pool, tasks, device="cpu")
    F = problem.evaluate(np.array([[0.3, 0.2], [1.0, 0.0]]))
    assert np.isfinite(F).all()
    assert ((F[:, 3] >= 1) & (F[:, 3] <= 4)).all()
    x = np.array([0.3, 0.2])
    losses, slopes = problem.losses_and_grads(x, ["corpus", "quiz"])
    assert losses == pytest.approx(F[0, :2], rel=1e-5)
    for k in (0, 1):
        step = np.zeros(2)
        step[k] = 1e-2
        ends = [problem.losses_and_grads(x + s * step, ["corpus", "quiz"])[0] for s in (1, -1)]
        assert slopes[:, k] == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.05, abs=2e-3)


@pytest.mark.parametrize("kind", ["corpus", "quiz", "right"])
def test_copies_and_fingerprints(kind):
    tokenizer = tiny.tokenizer()
    make = {
        "corpus": lambda n: LanguageModeling(
            "t", {"search": TEXTS[:n]}, tokenizer=tokenizer, context=9
        ),
        "quiz": lambda n: MultipleChoice("t", {"search": QUESTIONS[:n]}, tokenizer=tokenizer),
        "right": lambda n: Generation(
            "t", {"search": [(t, "a") for t in TEXTS[:n]]}, tokenizer=tokenizer, max_new_tokens=2
        ),
    }[kind]
    task, model = make(5), _model()
    copied = pickle.loads(pickle.dumps(task))
    assert copied.evaluate(model, "search") == task.evaluate(model, "search")
    assert copied.fingerprint("search") == task.fingerprint("search")
    assert make(4).fingerprint("search") != task.fingerprint("search")
