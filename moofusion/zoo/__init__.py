"""Offline expert pools, built from real data by fine-tuning small models.

``vision4`` ships with the package; `build_zoo` makes it again from the raw data, and makes
``vision5``, ``lm3`` and ``text3``, which are not shipped. Importing this package loads neither
torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moofusion.zoo.folders import ZOOS, zoo_folder

if TYPE_CHECKING:
    from moofusion.zoo.build import build_zoo

__all__ = ["ZOOS", "build_zoo", "zoo_folder"]


def __getattr__(name: str) -> object:
    if name == "build_zoo":
        from moofusion.zoo.build import build_zoo

        return build_zoo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
