"""Tasks of the lm-evaluation-harness: a small local one, measured inside a merge problem."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers import GPT2LMHeadModel

import moofusion
from moofusion import MergeProblem, ModelPool, get_problem
from moofusion.errors import ConfigurationError, DataError, UnknownNameError
from moofusion.tasks import HarnessTask, harness

pytest.importorskip("lm_eval.models.huggingface")

WORDS = ("a", "b", "c")
DOCUMENTS = [{"choices": list(WORDS), "answer": (i * i) % 3} for i in range(24)]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks with the same questions of three choices."""
    place = tmp_path_factory.mktemp("harness")
    file = place / "documents.json"
    rows = [d | {"question": f"d {WORDS[i % 3]}"} for i, d in enumerate(DOCUMENTS)]
    file.write_text("\n".join(map(json.dumps, rows)))
    for name in ("first_choice", "second_choice"):
        (place / f"{name}.yaml").write_text(TASK.format(name=name, file=file))
    return place


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    found = tiny.tokenizer()
    found.eos_token = "[PAD]"
    return found


@pytest.fixture(scope="module")
def task(folder: Path, tokenizer: Any) -> HarnessTask:
    return HarnessTask("one", task="first_choice", tokenizer=tokenizer, search=15, folder=folder)


def _model(seed: int) -> GPT2LMHeadModel:
    return tiny.build(GPT2LMHeadModel, tiny.gpt2_config(initializer_range=0.5), seed)


def _right(model: GPT2LMHeadModel, tokenizer: Any, rows: list[int]) -> float:
    """Share of documents whose answer is the likeliest next word: the slow, obvious twin."""
    right = 0
    choices = [tokenizer.convert_tokens_to_ids(word) for word in WORDS]
    for row in rows:
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(["d", WORDS[row % 3]])])
        with torch.no_grad():
            scores = model(input_ids=ids).logits[0, -1, choices]
        right += int(scores.argmax()) == DOCUMENTS[row]["answer"]
    return right / len(rows)


def test_the_documents_of_search_and_test_do_not_overlap(task: HarnessTask) -> None:
    assert task.n_samples("search") == 15
    assert task.n_samples("test") == 9
    assert sorted(task._rows["search"] + task._rows["test"]) == list(range(24))
    assert not task.has_split("train")
    assert task.fingerprint("search") != task.fingerprint("test")


def test_candidates_are_measured_in_a_merge_problem(task: HarnessTask, tokenizer: Any) -> None:
    base, experts = _model(0), {"x": _model(1), "y": _model(2)}
    pool = ModelPool(base, experts)
    L = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])

    errors = MergeProblem(pool, [task], device="cpu").evaluate(L)[:, 0]

    wanted = [
        1 - _right(model, tokenizer, task._rows["search"])
        for model in (base, experts["x"], experts["y"], base)
    ]
    np.testing.assert_allclose(errors, wanted, atol=1e-9)
    assert len(set(wanted)) > 1


def test_every_choice_is_a_request_and_costs_one(task: HarnessTask) -> None:
    found = task.evaluate(_model(1), "search")
    assert found.n_samples == len(task._harness.instances) == 3 * 15


def test_a_copy_measures_the_same(task: HarnessTask) -> None:
    copy = pickle.loads(pickle.dumps(task))
    assert copy.fingerprint("search") == task.fingerprint("search")
    assert copy.evaluate(_model(1), "test") == task.evaluate(_model(1), "test")


def test_nothing_is_printed(task: HarnessTask, capfd: pytest.CaptureFixture[str]) -> None:
    task.evaluate(_model(1), "search")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": "first_chioce"}, UnknownNameError, "unknown task of the lm-evaluation-harness"),
        ({"metric": "acc_mutual"}, UnknownNameError, "'acc_mutual'. Known: acc, acc_norm"),
        ({"search": 25}, DataError, "25 documents for search and None for test of the 24"),
        ({"search": 20, "test": 5}, DataError, "20 documents for search and 5 for test of the 24"),
    ],
)
def test_what_cannot_be(
    folder: Path,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    own = harness._manager(str(folder))
    monkeypatch.setattr(harness, "_manager", lambda place: own)  # not the harness' thousands
    defaults = {"task": "first_choice", "tokenizer": tokenizer, "search": 5, "folder": folder}
    with pytest.raises(error, match=message):
        HarnessTask("one", **(defaults | options))


def test_data_that_cannot_be_fetched_is_named(tokenizer: Any, tmp_path: Path) -> None:
    away = TASK.format(name="away", file="x").replace("path: json", "path: nobody/nothing")
    (tmp_path / "away.yaml").write_text(away)
    with pytest.raises(DataError, match=r"task 'away' cannot be loaded: .*nobody/nothing"):
        HarnessTask("away", tokenizer=tokenizer, search=5, folder=tmp_path)


def test_a_tokenizer_without_an_end_is_refused(folder: Path) -> None:
    task = HarnessTask(
        "one", task="first_choice", tokenizer=tiny.tokenizer(), search=5, folder=folder
    )
    with pytest.raises(DataError, match="no end-of-sequence token"):
        task.evaluate(_model(1), "search")


def test_without_the_harness_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Any
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'moofusion\[lm\]'"):
        HarnessTask("arc", task="arc_easy", tokenizer=tokenizer, search=5)


# -------------------------------------------------------------------- in a problem file

FILE = """
[pool]
base = "base"
[pool.experts]
x = "x"
y = "y"
[[tasks]]
name = "one"
kind = "harness"
task = "first_choice"
include = "own"
samples = { search = 15 }
few_shot = 0
[[tasks]]
name = "second_choice"
kind = "harness"
include = "own"
objective = "acc_norm"
samples = { search = 6, test = 4 }
"""


@pytest.fixture
def problem_file(folder: Path, tokenizer: Any, tmp_path: Path) -> Path:
    for seed, name in enumerate(("base", "x", "y")):
        tiny.save(_model(seed), tmp_path / name)
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "own").symlink_to(folder)
    (tmp_path / "lm.toml").write_text(FILE)
    return tmp_path / "lm.toml"


def test_a_problem_file_is_searched(
    problem_file: Path, task: HarnessTask, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")  # paths start from the file
    problem = get_problem(problem_file, device="cpu")
    assert [t.objective.name for t in problem.tasks] == ["acc", "acc_norm"]
    assert [t.n_samples("test") for t in problem.tasks] == [9, 4]
    base = 1 - _right(_model(0), tokenizer, task._rows["search"])
    assert problem.evaluate(np.zeros((1, 2)))[0, 0] == pytest.approx(base)
    result = moofusion.search(problem, "random", evaluations=4, seed=0)
    assert np.isfinite(result.front.values("test")).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("samples = { search = 15 }", "", r"'tasks\.0\.samples' is missing"),
        ("{ search = 15 }", "{ serch = 15 }", r"'tasks\.0\.samples\.serch'; did you mean 'search'"),
        ("{ search = 15 }", "{ search = 0 }", r"samples\.search' should be .*equal to 1, got 0"),
        ('"acc_norm"', '"acc_nrm"', "'acc_nrm'; did you mean 'acc_norm'"),
        ("few_shot = 0", "fewshot = 0", r"'tasks\.0\.fewshot'; did you mean 'few_shot'"),
        (
            'task = "first_choice"\ninclude = "own"',
            'include = "on"',
            "'one': there is no folder 'on'",
        ),
    ],
)
def test_wrong_problem_files_are_explained(
    problem_file: Path, old: str, new: str, message: str
) -> None:
    assert old in FILE
    problem_file.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ConfigurationError, match=message):
        get_problem(problem_file, device="cpu")


def test_a_problem_file_without_the_harness_says_what_to_install(
    problem_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'moofusion\[lm\]'"):
        get_problem(problem_file, device="cpu")
