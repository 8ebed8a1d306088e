"""Which offline problems exist, and in which folder their models and data lie."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

from moofusion.errors import DataError, UnknownNameError

#: Name of each offline problem -> what it is.
ZOOS: dict[str, str] = {
    "vision4": "small vision transformers: digits, garments, sketches of animals and of objects",
    "vision5": "vision4 and grey CIFAR-10 photographs (to be built: CIFAR-10 is not shipped)",
    "lm3": "a small GPT-2 of four languages: German, French, Italian (to be built)",
    "text3": "all-MiniLM-L6-v2: film reviews, news sections, spam (to be built)",
}
#: Those whose data a build fetches itself.
FETCHED = ("lm3", "text3")
_ASSETS = Path(__file__).parent / "assets"


def cache_folder(name: str) -> Path:
    """Where `name` is built unless another folder is given: the user's cache."""
    import platformdirs

    return platformdirs.user_cache_path("moofusion") / "zoo" / name


def build_folder(name: str) -> Path:
    """Where a build goes of itself: ``$MOOFUSION_ZOO/name``, or the user's cache."""
    own = os.environ.get("MOOFUSION_ZOO")
    return Path(own).expanduser() / name if own else cache_folder(name)


def zoo_folder(name: str) -> Path:
    """The folder of a built problem: ``$MOOFUSION_ZOO/name``, the user's cache, or shipped.

    Args:
        name: one of `ZOOS`.

    Raises:
        UnknownNameError: there is no such problem.
        DataError: it exists, but is neither built nor shipped.

    Example:
        >>> (zoo_folder("vision4") / "models" / "base").is_dir()
        True
    """
    check_name(name)
    places = [cache_folder(name), _ASSETS / name]
    if own := os.environ.get("MOOFUSION_ZOO"):
        places.insert(0, Path(own).expanduser() / name)
    for place in places:
        if (place / "manifest.json").is_file():
            return place
    raise DataError(
        f"{name} is not built (looked in {', '.join(map(str, places))}); build it with "
        f"`moofusion zoo build {name}{'' if name in FETCHED else ' --data DIR'}`"
    )


def checked_folder(name: str, *, root: str | Path) -> Path:
    """A built problem, its files compared with the sha256 of the manifest, once per process.

    Args:
        name: one of `ZOOS`.
        root: where a folder of that name comes before those of `zoo_folder`.

    Raises:
        UnknownNameError: there is no such problem.
        DataError: it is not there, or a file is missing or is not the one that was built.
    """
    check_name(name)
    here = Path(root).expanduser() / name
    folder = here if (here / "manifest.json").is_file() else zoo_folder(name)
    _check_files(folder, (folder / "manifest.json").stat().st_mtime_ns)
    return folder


@lru_cache
def _check_files(folder: Path, version: int) -> None:
    """Compare the files of `folder` with its manifest, whose time of change is `version`."""
    try:
        listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        wanted = {file: facts["sha256"] for file, facts in listed.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'manifest.json'} is no manifest of a build ({error}); build it again with "
            "--force"
        ) from error
    for file, digest in wanted.items():
        path = folder / file
        if not path.is_file():
            raise DataError(f"{path} is missing, though the manifest lists it; {_AGAIN}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != digest:
            raise DataError(
                f"{path} is not the file that was built: sha256 {found}, expected {digest}; "
                + _AGAIN
            )


_AGAIN = "build it again with `moofusion zoo build ... --force`, or restore the file"


def check_name(name: str) -> None:
    """Raise `UnknownNameError` unless `name` is an offline problem."""
    if name not in ZOOS:
        raise UnknownNameError("offline problem", name, ZOOS)
