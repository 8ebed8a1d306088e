"""Merge recipes: base, experts, method and coefficients of one merged checkpoint, in TOML."""

from __future__ import annotations

import fnmatch
import json
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moofusion.errors import ConfigurationError, key_message
from moofusion.merging.methods import METHODS, MergeMethod, make_method

__all__ = ["Group", "MergeRecipe", "read_recipe"]

#: Methods that do without a base.
BASELESS = ("average", "slerp")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Group(_Table):
    """Tensors that take coefficients of their own.

    Attributes:
        match: Pattern on tensor names.
        coefficients: Coefficient of each expert; those left out have 0.
    """

    match: str
    coefficients: dict[str, float]


class MergeRecipe(_Table):
    """One merged checkpoint.

    Attributes:
        base: Folder or hub id; not needed by methods that do without.
        experts: Folder or hub id of each expert.
        merge: The method, ``{"method": name, **parameters}``.
        coefficients: Coefficient of each expert; those left out have 0.
        groups: Other coefficients for some tensors; the first group that matches counts.
        dtype: Number format that is written; ``"same"`` keeps that of each tensor of the base.
        folder: Folder that relative paths start from.

    Example:
        >>> recipe = MergeRecipe(base="b", experts={"x": "x"}, coefficients={"x": 0.5})
        >>> recipe.row("any.weight")
        array([0.5])
    """

    base: str | None = None
    experts: dict[str, str] = Field(min_length=1)
    merge: dict[str, Any] = {"method": "linear"}
    coefficients: dict[str, float] = {}
    groups: list[Group] = []
    dtype: Literal["same", "float32", "float16", "bfloat16"] = "same"
    folder: str = "."

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            method = self.method
        except ConfigurationError as error:
            raise ValueError(str(error)) from error  # pydantic adds the key
        if self.base is None and method.name not in BASELESS:
            raise ValueError(f"merge method {method.name!r} needs a base")
        for row in (self.coefficients, *(group.coefficients for group in self.groups)):
            for name in row:
                if name not in self.experts:
                    known = ", ".join(self.experts)
                    raise ValueError(f"coefficient of {name!r}, which is no expert ({known})")
        if not self.coefficients and not self.groups:
            raise ValueError("no coefficients are given")
        return self

    @property
    def method(self) -> MergeMethod:
        """The merge method."""
        return make_method(self.merge)

    def row(self, tensor: str) -> NDArray[np.float64]:
        """Coefficients ``(K,)`` of a tensor."""
        for group in self.groups:
            if fnmatch.fnmatchcase(tensor, group.match):
                return self._row(group.coefficients)
        return self._row(self.coefficients)

    def _row(self, given: dict[str, float]) -> NDArray[np.float64]:
        return np.array([given.get(name, 0.0) for name in self.experts])

    def source(self, name: str) -> str:
        """Where a model lies: beside the recipe, or as it is written."""
        given = self.base if name == "base" else self.experts[name]
        assert given is not None
        path = Path(given).expanduser()
        beside = Path(self.folder) / path
        return str(beside) if not path.is_absolute() and beside.exists() else str(path)

    def moved(self, folder: Path) -> MergeRecipe:
        """The recipe for a file in another folder: paths that exist become absolute."""
        if folder.resolve() == Path(self.folder).resolve():
            return self

        def place(name: str, given: str) -> str:
            found = Path(self.source(name))
            return str(found.resolve()) if found.exists() else given

        return self.model_copy(
            update={
                "base": None if self.base is None else place("base", self.base),
                "experts": {name: place(name, given) for name, given in self.experts.items()},
                "folder": str(folder.resolve()),
            }
        )

    def to_toml(self) -> str:
        """The recipe as a file that :func:`read_recipe` reads."""
        lines = [f"base = {_value(self.base)}"] if self.base is not None else []
        lines += [f'dtype = "{self.dtype}"', "", "[experts]"]
        lines += [f"{_value(name)} = {_value(given)}" for name, given in self.experts.items()]
        lines += [
            "",
            "[merge]",
            *(f"{k} = {_value(v)}" for k, v in self.merge.items() if v is not None),
        ]
        lines += ["", "[coefficients]"]
        lines += [f"{_value(name)} = {value}" for name, value in self.coefficients.items()]
        for group in self.groups:
            inner = ", ".join(f"{_value(n)} = {v}" for n, v in group.coefficients.items())
            lines += ["", "[[groups]]", f"match = {_value(group.match)}"]
            lines += [f"coefficients = {{{inner}}}"]
        return "\n".join(lines) + "\n"


def read_recipe(path: str | Path) -> MergeRecipe:
    """Read and validate a recipe.

    Raises:
        ConfigurationError: The file cannot be read, or a key or value is wrong; the message names
            the file, the key and what was expected.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"recipe {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"recipe {path} is not valid TOML: {error}") from error
    raw.setdefault("folder", str(path.resolve().parent))
    try:
        return MergeRecipe.model_validate(raw)
    except ValidationError as error:
        places = "; ".join(key_message(item) for item in error.errors())
        known = ", ".join(key for key in MergeRecipe.model_fields if key != "folder")
        raise ConfigurationError(
            f"recipe {path}: {places}. Known keys: {known}; methods: {', '.join(METHODS)}"
        ) from error


def _value(value: Any) -> str:
    # Texts, numbers and booleans are written alike in JSON and TOML.
    return json.dumps(value)
