"""The merge methods, one file each, and their names in problem files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging.methods.arithmetic import Average, Linear
from moofusion.merging.methods.base import (
    Merge,
    MergeMethod,
    Statistics,
    TaskVectorTransform,
    TensorTransform,
)
from moofusion.merging.methods.breadcrumbs import Breadcrumbs
from moofusion.merging.methods.dare import Dare
from moofusion.merging.methods.della import Della
from moofusion.merging.methods.fisher import Fisher
from moofusion.merging.methods.iso import Iso
from moofusion.merging.methods.low_rank import LowRank
from moofusion.merging.methods.ranges import Choice, Integer, Range, Real, ShareOrCount
from moofusion.merging.methods.regmean import RegMean
from moofusion.merging.methods.spherical import Slerp
from moofusion.merging.methods.stock import ModelStock
from moofusion.merging.methods.ties import Ties
from moofusion.merging.methods.tsv import Tsv

__all__ = [
    "METHODS",
    "Average",
    "Breadcrumbs",
    "Choice",
    "Dare",
    "Della",
    "Fisher",
    "Integer",
    "Iso",
    "Linear",
    "LowRank",
    "Merge",
    "MergeMethod",
    "ModelStock",
    "Range",
    "Real",
    "RegMean",
    "ShareOrCount",
    "Slerp",
    "Statistics",
    "TaskVectorTransform",
    "TensorTransform",
    "Ties",
    "Tsv",
    "make_method",
]

_ALL: tuple[type[MergeMethod], ...] = (
    Linear,
    Average,
    Ties,
    Dare,
    Della,
    Breadcrumbs,
    LowRank,
    Tsv,
    Iso,
    ModelStock,
    Slerp,
    Fisher,
    RegMean,
)

#: Merge methods by name.
METHODS: dict[str, type[MergeMethod]] = {method.name: method for method in _ALL}


def make_method(merge: str | Mapping[str, Any] | MergeMethod) -> MergeMethod:
    """Merge method by name.

    Args:
        merge: A key of :data:`METHODS`, a table ``{"method": name, **parameters}``, or a method.

    Raises:
        UnknownNameError: There is no such method, or the method has no such parameter.
        ConfigurationError: A parameter has a value that it cannot have.

    Example:
        >>> make_method({"method": "ties", "density": 0.3})
        Ties(density=0.3, scope='model')
    """
    if isinstance(merge, MergeMethod):
        return merge
    table = {"method": merge} if isinstance(merge, str) else dict(merge)
    name = table.pop("method", "linear")
    if name not in METHODS:
        raise UnknownNameError("merge method", name, METHODS)
    method = METHODS[name]
    for key in table:
        if key not in method.parameter_names():
            raise UnknownNameError(
                f"parameter of merge method {name!r}", key, method.parameter_names()
            )
    try:
        return method(**table)
    except (ConfigurationError, TypeError, ValueError) as error:
        raise ConfigurationError(f"merge method {name!r}: {error}") from error
