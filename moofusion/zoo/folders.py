"""Which offline problems exist, and in which folder their models and data lie."""

from __future__ import annotations

import os
from pathlib import Path

from moofusion.errors import DataError, UnknownNameError

#: Name of each offline problem -> what it is.
ZOOS: dict[str, str] = {
    "vision4": "small vision transformers: digits, garments, sketches of animals and of objects",
    "vision5": "vision4 and grey CIFAR-10 photographs (to be built: CIFAR-10 is not shipped)",
}
_ASSETS = Path(__file__).parent / "assets"


def cache_folder(name: str) -> Path:
    """Where `name` is built unless another folder is given: the user's cache."""
    import platformdirs

    return platformdirs.user_cache_path("moofusion") / "zoo" / name


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
        f"`moofusion zoo build {name} --data DIR`"
    )


def check_name(name: str) -> None:
    """Raise `UnknownNameError` unless `name` is an offline problem."""
    if name not in ZOOS:
        raise UnknownNameError("offline problem", name, ZOOS)
