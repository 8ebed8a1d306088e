"""Every problem file, end to end on tiny stand-ins that lie as the hub's repositories do."""

import json

import hub
import numpy as np
import pandas
import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

import moofusion
from moofusion import get_problem, list_problems
from moofusion.cli import app
from moofusion.errors import ConfigurationError, DataError, PoolError
from moofusion.problems import problem_spec
from moofusion.tasks import Prompts
from moofusion.tasks.multiple_choice import as_question
from moofusion.zoo import ZOOS

FAMILIES = {
    "clip_b32": "clip-vit-base-patch32",
    "clip_b16": "clip-vit-base-patch16",
    "clip_l14": "clip-vit-large-patch14",
}
# The others are built on the machine, and run to the end with their zoos, or are shipped.
HUB = [name for name in list_problems() if name not in ZOOS]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    for family in FAMILIES.values():
        hub.save_clip(root, family)
    hub.save_clip_data(root)
    hub.save_gpt2(root)
    hub.save_glue(root)
    return root


@pytest.fixture(autouse=True)
def _heads(monkeypatch, tmp_path_factory):
    place = tmp_path_factory.getbasetemp() / "heads"
    monkeypatch.setenv("MOOFUSION_HEADS", str(place))


@pytest.mark.parametrize("name", HUB)
def test_every_file_runs_end_to_end(name, root):
    smaller = {f"tasks.{task.name}.holdout": 20 for task in problem_spec(name).tasks}
    problem = get_problem(name, device="cpu", overrides={"folder": str(root)} | smaller)
    assert problem.has_test_split
    assert problem.n_var == problem.n_obj == len(problem_spec(name).tasks)
    k = problem.n_var
    result = moofusion.search(problem, "random", evaluations=k + 2, seed=1)
    assert np.isfinite(result.front.values("test")).all()
    losses = [[m.metrics["loss"] for m in e.measurements] for e in problem.anchors().evaluations]
    assert len(np.unique(np.round(losses, 9), axis=0)) == k + 1, "models measured alike"


def test_the_papers_pairs_and_triple_are_there():
    for family in FAMILIES:
        whole = problem_spec(family)
        assert [task.name for task in whole.tasks] == list(hub.CLIP_TASKS)
        for short, tasks in {
            "sun397_cars": ["sun397", "stanford_cars"],
            "sun397_dtd": ["sun397", "dtd"],
            "cars_dtd": ["stanford_cars", "dtd"],
            "sun397_cars_dtd": ["sun397", "stanford_cars", "dtd"],
        }.items():
            spec = problem_spec(f"{family}_{short}")
            assert [task.name for task in spec.tasks] == list(spec.pool.experts) == tasks
            assert spec.pool.base == whole.pool.base


def test_gpt2_and_its_three_pairs():
    whole = problem_spec("gpt2_glue")
    assert [task.name for task in whole.tasks] == list(hub.GLUE)
    for names in (["cola", "mnli"], ["cola", "mrpc"], ["mrpc", "mnli"]):
        spec = problem_spec("gpt2_" + "_".join(names))
        assert [task.name for task in spec.tasks] == list(spec.pool.experts) == names
    for task in whole.tasks:
        assert task.max_length == 512
        assert task.splits["test"].startswith("validation")


def test_pairs_of_sentences_go_through_gpt2_one_by_one(root):
    """Against each pair alone, unpadded: the last token of the second sentence decides."""
    from transformers import GPT2ForSequenceClassification

    changes = {"folder": str(root), "tasks.mnli.holdout": 12}
    problem = get_problem("gpt2_glue", tasks=["mnli"], device="cpu", overrides=changes)
    task = problem.tasks[0]
    module = problem.evaluator.module(task)
    problem.evaluator.weights(np.ones((1, 1)))
    expert = GPT2ForSequenceClassification.from_pretrained(root / "tanganke" / "gpt2_mnli").eval()
    tokenizer, losses = hub.gpt2_tokenizer(), []
    table = pandas.read_parquet(
        root / "nyu-mll" / "glue" / "mnli" / "validation_matched-00000-of-00001.parquet"
    )
    for row in table.itertuples():
        ids = torch.tensor([tokenizer(row.premise, row.hypothesis)["input_ids"][:512]])
        with torch.no_grad():
            scores = expert(input_ids=ids).logits
        losses.append(float(cross_entropy(scores, torch.tensor([row.label]))))
    found = task.evaluate(module, "test").metrics["loss"]
    assert found == pytest.approx(np.mean(losses), rel=1e-4)


def test_missing_columns_of_glue_are_named(root):
    changes = {"folder": str(root), "tasks.rte.column": ["premise", "hypothesis"]}
    with pytest.raises(DataError, match=r"no column 'premise'; it has \['sentence1', 'sentence2'"):
        get_problem("gpt2_glue", tasks=["rte"], overrides=changes)


def test_the_unlabelled_test_split_of_glue_is_refused(root):
    changes = {"folder": str(root), "tasks.rte.splits": {"train": "train", "test": "test"}}
    changes["tasks.rte.holdout"] = 12
    with pytest.raises(DataError, match=r"'test': label -1.*splits that are labelled"):
        get_problem("gpt2_glue", tasks=["rte"], overrides=changes)


def test_no_tokenizer_beside_the_base(root, tmp_path):
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / name).symlink_to(root / "openai-community" / "gpt2" / name)
    changes = {"folder": str(root), "pool.base": str(tmp_path / "bare"), "tasks.rte.holdout": 12}
    problem = get_problem("gpt2_glue", tasks=["rte"], device="cpu", overrides=changes)
    with pytest.raises(DataError, match=r"'rte': no tokenizer in .*bare"):
        problem.evaluate(np.zeros((1, 1)))


def test_a_corrupted_task_is_harder_and_calibration_can_be_searched():
    """On the shipped models: the expert of the digits, clean and through noise."""
    names = {"tasks": ["mnist"], "device": "cpu"}
    clean = get_problem("vision4", **names)
    changes = {"tasks.mnist.corruption": "gaussian-noise", "tasks.mnist.severity": 5}
    rough = get_problem("vision4", overrides=changes, **names)
    one = np.ones((1, 1))
    assert rough.evaluate(one)[0, 0] > clean.evaluate(one)[0, 0] + 0.02
    sure = get_problem("vision4", objective="ece", **names)
    assert 0 < sure.evaluate(one)[0, 0] < 0.2
    with pytest.raises(ConfigurationError, match=r"severity'.*less than or equal to 5"):
        get_problem("vision4", overrides={"tasks.mnist.severity": 6}, **names)


def test_what_vision_towers_forget_is_an_objective(root, tmp_path):
    """The base is a whole CLIP, the merge its tower; on data of no task, by CLIP's own head."""
    text = f'''
folder = "{root}"
[pool]
base = "openai/{FAMILIES["clip_b32"]}"
[pool.experts]
mnist = "tanganke/{FAMILIES["clip_b32"]}_mnist"
[[tasks]]
name = "forgetting"
kind = "forgetting"
[tasks.on]
kind = "zero-shot-classification"
data = "tanganke/dtd"
prompts = "dtd"
holdout = 20
'''
    (tmp_path / "forget.toml").write_text(text)
    problem = get_problem(tmp_path / "forget.toml", device="cpu")
    F = problem.evaluate(np.array([[0.0], [0.5], [1.0]]))[:, 0]
    assert F[0] == pytest.approx(0, abs=1e-6)
    assert F[0] < F[1] < F[2]


# -------------------------------------------------------------------------- other places


def test_single_sources_are_replaced_on_the_command_line(root):
    """Without the mirror: base, expert and data each by a path."""
    family = FAMILIES["clip_b32"]
    options = [
        f"pool.base={root / 'openai' / family}",
        f"pool.experts.dtd={root / 'tanganke' / f'{family}_dtd'}",
        f"tasks.dtd.data={root / 'tanganke' / 'dtd'}",
        "tasks.dtd.holdout=20",
    ]
    words = [word for option in options for word in ("--set", option)]
    result = CliRunner().invoke(app, ["describe", "clip_b32", "--tasks", "dtd", *words])
    assert result.exit_code == 0, result.output
    assert "dtd" in result.output


def test_what_is_neither_here_nor_in_the_cache_is_named(tmp_path):
    with pytest.raises(PoolError, match=r"openai/clip-vit-base-patch32.*no network, or offline"):
        get_problem("clip_b32", tasks=["dtd"], overrides={"folder": str(tmp_path)})


def test_data_that_is_neither_here_nor_in_the_cache_is_named(root):
    changes = {"folder": str(root), "tasks.dtd.data": "nobody/nothing"}
    with pytest.raises(DataError, match=r"'nobody/nothing'.*no network, or offline mode"):
        get_problem("clip_b32", tasks=["dtd"], overrides=changes)


def test_a_data_set_with_other_classes_is_refused(root, tmp_path):
    hub.save_picture_data(tmp_path / "other", ["blotchy", "banded"])
    changes = {"folder": str(root), "tasks.dtd.data": str(tmp_path / "other")}
    changes["tasks.dtd.holdout"] = 20
    with pytest.raises(DataError, match="'dtd': the data set has 2 classes"):
        get_problem("clip_b32", tasks=["dtd"], overrides=changes)
    changes |= {"tasks.dtd.class_names": ["banded", "blotchy"]}
    with pytest.raises(DataError, match="label 0 is 'blotchy'"):
        get_problem("clip_b32", tasks=["dtd"], overrides=changes)
    changes |= {"tasks.dtd.class_names": ["blotchy", "banded"]}
    problem = get_problem("clip_b32", tasks=["dtd"], device="cpu", overrides=changes)
    assert problem.tasks[0].prompts.templates == Prompts.shipped("dtd").templates


def test_exported_merges_are_vision_towers_that_transformers_loads(root, tmp_path):
    from transformers import CLIPImageProcessorPil, CLIPVisionModel

    smaller = {"folder": str(root), "tasks.dtd.holdout": 20}
    smaller |= {"tasks.dtd.objective": "loss"}
    problem = get_problem("clip_b32", tasks=["dtd"], device="cpu", overrides=smaller)
    result = moofusion.search(problem, "random", evaluations=4, seed=1)
    out = result.export(tmp_path / "merged")
    tower, info = CLIPVisionModel.from_pretrained(out.folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    CLIPImageProcessorPil.from_pretrained(out.folder)
    found = problem.tasks[0].evaluate(tower.eval(), "search").metrics["loss"]
    assert len(result.front) == 1
    assert found == pytest.approx(problem.measured(result.front.X)[0, 0], rel=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('only = ["a"]', "'only' needs 'extends'"),
        ('extends = "gone"', r"gone\.toml cannot be read"),
        ('extends = "second"', r"second\.toml extends another file itself"),
        ('extends = "first"\nonly = ["c"]', "unknown task 'c'"),
        ('extends = "first"\nspcae = 3', "unknown key 'spcae'"),
    ],
)
def test_files_that_extend_others_wrongly(tmp_path, text, message):
    (tmp_path / "first.toml").write_text(
        '[pool]\nbase = "b"\n[pool.experts]\na = "x"\n'
        '[[tasks]]\nname = "a"\nkind = "text-classification"\ndata = "d"\n'
    )
    (tmp_path / "second.toml").write_text('extends = "first"')
    (tmp_path / "bad.toml").write_text(text)
    assert problem_spec(tmp_path / "second.toml").title == "first"
    with pytest.raises(ConfigurationError, match=message):
        problem_spec(tmp_path / "bad.toml")


# -------------------------------------------------------------------------- language models

LANGUAGE = """
[pool]
base = "base"
[pool.experts]
a = "a"
b = "b"
[[tasks]]
name = "text"
kind = "language-modeling"
data = "text"
context = 12
[[tasks]]
name = "quiz"
kind = "multiple-choice"
data = "quiz"
answer = "answerKey"
template = "a {} b"
[[tasks]]
name = "right"
kind = "generation"
data = "sums"
max_new_tokens = 3
[[tasks]]
name = "short"
kind = "generation"
data = "sums"
max_new_tokens = 3
objective = "tokens"
"""


def test_a_problem_file_of_language_models(tmp_path):
    from transformers import GPT2LMHeadModel

    config = tiny.gpt2_config(vocab_size=18, eos_token_id=17, n_positions=64)
    for i, name in enumerate(("base", "a", "b")):
        tiny.save(tiny.build(GPT2LMHeadModel, config, i), tmp_path / name)
    hub.gpt2_tokenizer().save_pretrained(tmp_path / "base")
    quiz = [
        {"question": "c", "choices": {"text": ["d", "e"], "label": ["A", "B"]}, "answerKey": "B"},
        {"question": "d", "choices": {"text": ["g", "h"], "label": ["1", "2"]}, "answerKey": "1"},
    ]
    sums = [{"question": text, "answer": "a"} for text in tiny.sentences(4, 0)]
    text = [{"text": line} for line in [*tiny.sentences(5, 1), ""]]
    for name, rows in {"quiz": quiz, "sums": sums, "text": text}.items():
        (tmp_path / name).mkdir()
        for split in ("validation", "test"):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / name / f"{split}.jsonl").write_text(lines)
    (tmp_path / "lm.toml").write_text(LANGUAGE)
    problem = get_problem(tmp_path / "lm.toml", device="cpu")
    assert [task.objective.name for task in problem.tasks] == [
        "bits_per_byte", "accuracy", "exact_match", "tokens",
    ]  # fmt: skip
    first = problem.tasks[1]._items["search"]
    assert (first[0].prompt, first[0].answer, first[1].answer) == ("a c b", 1, 0)
    assert first[0].choices == (" d", " e")
    result = moofusion.search(problem, "random", evaluations=5, seed=0)
    assert np.isfinite(result.front.values("test")).all()


@pytest.mark.parametrize(
    ("choices", "answer", "message"),
    [
        ("d e", "A", "choices must be a list of texts.*got str"),
        (["d", "e"], "C", "answer 'C' is neither a number nor among the choices"),
        (["d", "e"], "7", "answer 7 is none of the 2 choices"),
    ],
)
def test_questions_of_another_form_are_explained(choices, answer, message):
    with pytest.raises(DataError, match=message):
        as_question("quiz", "{}", "c", choices, answer)
