"""Hub ids without network: what was fetched once is found in the caches, as a download left it."""

import hub
import numpy as np
import pytest
import tiny
from datasets import Dataset, DatasetDict

import moofusion
from moofusion import get_problem
from moofusion.errors import DataError, PoolError

FILE = """
[pool]
base = "cached/llama"
[pool.experts]
first = "cached/llama-first"
second = "cached/llama-second@v2"
[[tasks]]
name = "text"
kind = "language-modeling"
data = "text"
context = 10
[[tasks]]
name = "quiz"
kind = "multiple-choice"
data = "cached/quiz"
objective = "loss"
holdout = 4
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    from transformers import LlamaForCausalLM

    place = tmp_path_factory.mktemp("cached")
    repositories = {"llama": "main", "llama-first": "main", "llama-second": "v2"}
    for seed, (name, revision) in enumerate(repositories.items()):
        model = tiny.drift(tiny.build(LlamaForCausalLM, tiny.llama_config()), seed, 0.3)
        model.save_pretrained(place / name)
        tiny.tokenizer().save_pretrained(place / name)
        hub.cache_model(place / name, f"cached/{name}", revision=revision)
    quiz = {
        "question": tiny.sentences(8, 3),
        "choices": [["a b", "c"]] * 8,
        "answer": [0, 1] * 4,
    }
    tables = {split: Dataset.from_dict(quiz) for split in ("train", "test")}
    hub.cache_data(place / "quiz", "cached/quiz", tables)
    texts = {
        s: Dataset.from_dict({"text": tiny.sentences(4, i)})
        for i, s in enumerate(("validation", "test"))
    }
    DatasetDict(texts).save_to_disk(place / "text")
    (place / "cached.toml").write_text(FILE)
    return place / "cached.toml"


def test_a_problem_is_searched_and_exported_from_the_caches(file, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    problem = get_problem(file, device="cpu")
    assert [task.n_samples("search") for task in problem.tasks][1] == 4
    result = moofusion.search(problem, "random", evaluations=4, seed=1)
    assert np.isfinite(result.front.values("test")).all()
    result.export(tmp_path / "merged", point=1)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    AutoTokenizer.from_pretrained(tmp_path / "merged")
    measured = problem.tasks[1].evaluate(merged, "test").metrics["loss"]
    assert measured == pytest.approx(result.front.values("test")[0, 1], rel=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (
            "llama-first",
            "llama-third",
            PoolError,
            "expert 'first'.*'cached/llama-third'.*no network",
        ),
        (
            "second@v2",
            "second@v3",
            PoolError,
            "expert 'second'.*'cached/llama-second@v3'.*no network",
        ),
        ("cached/quiz", "cached/quizz", DataError, "'cached/quizz'.*no network, or offline mode"),
        ("holdout = 4", 'answer = "key"', DataError, r"no column 'key'; it has \['question'"),
        ("holdout = 4", 'splits = { search = "dev" }', DataError, r"no split 'dev'; it has"),
    ],
)
def test_what_is_not_in_the_caches_is_named(file, tmp_path, old, new, error, message):
    text = FILE.replace(old, new).replace("[pool]", f'folder = "{file.parent}"\n[pool]', 1)
    (tmp_path / "other.toml").write_text(text)
    with pytest.raises(error, match=message):
        get_problem(tmp_path / "other.toml", device="cpu")
