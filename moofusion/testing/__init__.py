"""Contracts as test classes: inherit one to check a task, method, space or algorithm of your own.

Each contract checks what the rest of the package relies on. They run under pytest, an optional
dependency: ``pip install 'moofusion[testing]'``.
"""

import importlib.util

from moofusion.errors import ConfigurationError

if importlib.util.find_spec("pytest") is None:
    raise ConfigurationError(
        "moofusion.testing needs pytest, which is not installed: pip install 'moofusion[testing]'"
    )

import pytest

# Failures of inherited tests show their values, as those of a test file do.
pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("task", "method", "space", "algorithm", "runner"))
)

from moofusion.testing.algorithm import AlgorithmContract, AlgorithmTraits  # noqa: E402
from moofusion.testing.method import MergeMethodContract  # noqa: E402
from moofusion.testing.runner import RunnerContract  # noqa: E402
from moofusion.testing.space import SpaceContract  # noqa: E402
from moofusion.testing.standins import (  # noqa: E402
    ToyNet,
    drift,
    toy_net,
    toy_pool,
    toy_problem,
    toy_tasks,
)
from moofusion.testing.task import TaskContract  # noqa: E402

__all__ = [
    "AlgorithmContract",
    "AlgorithmTraits",
    "MergeMethodContract",
    "RunnerContract",
    "SpaceContract",
    "TaskContract",
    "ToyNet",
    "drift",
    "toy_net",
    "toy_pool",
    "toy_problem",
    "toy_tasks",
]
