"""A handle to an evaluator: cheap to copy and pickle, reopened once per process.

Optimizers copy and pickle problems freely; models and data must not travel along. A handle keeps
the evaluator in the process that made it, and sends only how to open it again.
"""

from __future__ import annotations

import os
import tempfile
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from moofusion.errors import ConfigurationError
from moofusion.problems.evaluator import Evaluator

__all__ = ["EvaluatorHandle"]

# Evaluators of this process by key, for as long as a handle holds them ...
_open: weakref.WeakValueDictionary[str, Evaluator] = weakref.WeakValueDictionary()
# ... and those opened again in a worker, which outlive the short-lived problems sent to it.
_reopened: OrderedDict[str, Evaluator] = OrderedDict()
_MAX_REOPENED = 2


class EvaluatorHandle:
    """Reference to an evaluator that stays where it is.

    Args:
        recipe: Makes the evaluator; called at once here, and once in every process to which a
            copy is pickled.

    Recipes are stored in a temporary file when the handle is first pickled, so that a task sent
    to a worker carries a path, whatever the recipe holds (models in memory, data).
    """

    def __init__(self, recipe: Callable[[], Evaluator]) -> None:
        self.key = uuid.uuid4().hex
        self._recipe: Callable[[], Evaluator] | None = recipe
        self._file: Path | None = None
        self._evaluator: Evaluator | None = recipe()
        _open[self.key] = self._evaluator

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator, opened if need be."""
        if self._evaluator is None:
            self._evaluator = _open.get(self.key) or self._reopen()
        return self._evaluator

    def __deepcopy__(self, memo: dict[int, Any]) -> EvaluatorHandle:
        return self

    def __getstate__(self) -> dict[str, Any]:
        if self._file is None:
            handle, name = tempfile.mkstemp(prefix="moofusion-", suffix=".recipe")
            self._file = Path(name)
            with os.fdopen(handle, "wb") as file:
                cloudpickle.dump(self._recipe, file)
            weakref.finalize(self, self._file.unlink, missing_ok=True)
        return {"key": self.key, "_file": self._file, "_recipe": None, "_evaluator": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _reopen(self) -> Evaluator:
        if self.key not in _reopened:
            assert self._file is not None
            if not self._file.exists():
                raise ConfigurationError(
                    "this copy of a problem has outlived the problem it was pickled from, and "
                    "pickles carry no weights; make the problem again instead"
                )
            # This file was written by the process that made the handle, not downloaded.
            with self._file.open("rb") as file:
                recipe: Callable[[], Evaluator] = cloudpickle.load(file)
            _reopened[self.key] = recipe()
            while len(_reopened) > _MAX_REOPENED:
                _reopened.popitem(last=False)
        _open[self.key] = _reopened[self.key]
        return _reopened[self.key]
