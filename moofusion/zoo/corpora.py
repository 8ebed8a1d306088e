"""Reads the texts of lm3 and text3 out of their archives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from moofusion.zoo.archives import archive, members


class Labelled(NamedTuple):
    """Texts, the label of each, and the names of the labels."""

    texts: list[str]
    labels: list[int]
    classes: tuple[str, ...]


def sentences(language: str, data: str | Path | None = None) -> list[str]:
    """The different sentences of ``de``, ``fr`` or ``it``, in the order of the package.

    Args:
        language: which.
        data: folder with the archives (see `moofusion.zoo.archives.archive`).

    Raises:
        DataError: the archive is missing or damaged.
    """
    found = members(
        archive(language, data), lambda name: re.search(r"/builds/doc-\d+\.json$", name) is not None
    )
    numbered = sorted(found, key=lambda name: int(re.findall(r"\d+", name)[-1]))
    # Pairs of a sentence and the hash of its English original.
    return list(dict.fromkeys(text for name in numbered for text, _ in json.loads(found[name])))


def brown(data: str | Path | None = None) -> list[str]:
    """Sentences of the Brown corpus without its tags; arguments as for `sentences`."""
    files = members(
        archive("brown", data), lambda name: re.search(r"/c[a-r]\d\d$", name) is not None
    )
    texts = []
    for content in files.values():
        for sentence in re.split(r"\n\s*\n\s*\n", content.decode("utf-8", "replace")):
            words = [word.rsplit("/", 1)[0] for word in sentence.split()]
            if words:
                texts.append(" ".join(words))
    return texts


def imdb(data: str | Path | None = None) -> Labelled:
    """Film reviews, negative or positive; arguments as for `sentences`."""
    (content,) = members(
        archive("imdb", data), lambda name: name.endswith("/reviews.json")
    ).values()
    reviews = json.loads(content)
    return Labelled(
        [review["t"] for review in reviews],
        [int(review["s"]) for review in reviews],
        ("negative", "positive"),
    )


def bbc(data: str | Path | None = None) -> Labelled:
    """News articles by section; arguments as for `sentences`."""
    files = members(
        archive("bbc", data), lambda name: re.search(r"/data/\w+/\d+\.txt$", name) is not None
    )
    sections = [Path(name).parent.name for name in files]
    classes = tuple(sorted(set(sections)))
    return Labelled(
        [content.decode("utf-8", "replace") for content in files.values()],
        [classes.index(section) for section in sections],
        classes,
    )


def spam(data: str | Path | None = None) -> Labelled:
    """Mails, subject and body, wanted or spam; arguments as for `sentences`."""
    files = members(
        archive("spam", data),
        lambda name: re.search(r"/data/(easy-ham|hard-ham|spam)-\d/[^/]+\.txt$", name) is not None,
    )
    texts = []
    for content in files.values():
        head, _, body = content.decode("utf-8", "replace").replace("\r\n", "\n").partition("\n\n")
        subject = re.search(r"^subject:(.*)$", head, re.IGNORECASE | re.MULTILINE)
        texts.append(f"{subject[1].strip() if subject else ''}\n{body}")
    labels = [int("/data/spam-" in name) for name in files]
    return Labelled(texts, labels, ("wanted", "spam"))
