"""The exceptions and warnings of moofusion: one family, messages that say what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigurationError",
    "DataError",
    "EvaluationWarning",
    "MoofusionError",
    "PoolError",
    "RunError",
    "UnknownNameError",
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
