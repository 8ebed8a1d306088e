"""The exceptions and warnings of moofusion: one family, messages that say what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "ConfigurationError",
    "DataError",
    "EvaluationWarning",
    "MoofusionError",
    "PoolError",
    "RunError",
    "UnknownNameError",
    "key_message",
]


class MoofusionError(Exception):
    """Base class of every error that moofusion raises on purpose."""


class ConfigurationError(MoofusionError):
    """A value set by the user (option, problem file, argument) cannot be used."""


class UnknownNameError(ConfigurationError):
    """A name that is not in the list it should come from.

    Args:
        kind: What was named, for example ``"problem"``.
        name: The name that was given.
        known: The names that exist.
        hint: What to do, appended to the message.

    Example:
        >>> str(UnknownNameError("task", "minst", ["mnist", "fashion"]))
        "unknown task 'minst'; did you mean 'mnist'? Known: fashion, mnist."
    """

    def __init__(self, kind: str, name: object, known: Iterable[str], *, hint: str = "") -> None:
        names = sorted(known)
        close = difflib.get_close_matches(str(name), names, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else "."
        listed = f" Known: {', '.join(names)}." if names else f" No {kind} is known."
        super().__init__(f"unknown {kind} {str(name)!r}{guess}{listed}{' ' + hint if hint else ''}")
        self.kind, self.name, self.known = kind, name, names


class PoolError(MoofusionError):
    """The models of a pool cannot be read, or do not fit together."""


class DataError(MoofusionError):
    """A data set cannot be read, or does not hold what the task needs."""


class RunError(MoofusionError):
    """A run folder cannot be written, resumed or read back."""


class EvaluationWarning(UserWarning):
    """A candidate could not be measured and was recorded as failed."""


def key_message(item: Mapping[str, Any], location: Iterable[object] | None = None) -> str:
    """One validation error of pydantic as a clause that begins with the key.

    Args:
        item: Of ``ValidationError.errors()``.
        location: Steps to the key, where they are not those that pydantic names.

    Example:
        >>> key_message({"loc": ("merge",), "type": "value_error", "msg": "Value error, no base"})
        "key 'merge': no base"
        >>> key_message({"loc": ("a", "n"), "type": "int_type", "msg": "Input should be whole"})
        "key 'a.n' should be whole"
    """
    steps = [str(step) for step in (item["loc"] if location is None else location)]
    key = f"key {'.'.join(steps)!r}" if steps else "the whole"
    said = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if item["type"] == "extra_forbidden":
        return f"{key} is not known"
    if item["type"] == "missing":
        return f"{key} is missing"
    if said.startswith("Input should "):
        return f"{key} {said.removeprefix('Input ')}"
    return f"{key}: {said}"
