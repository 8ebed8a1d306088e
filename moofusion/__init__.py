"""Model merging as multi-objective optimization.

Every way of merging is a pymoo ``Problem``, every way of searching a pymoo ``Algorithm``:

    import moofusion
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.optimize import minimize

    problem = moofusion.get_problem("vision4")
    result = minimize(problem, NSGA2(pop_size=20), ("n_eval", 200), seed=1)

Names are imported when they are first used, so that ``import moofusion`` stays quick.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moofusion.algorithms import (
        MAP,
        BayesianMAP,
        GradientMAP,
        NestedMAP,
        ParetoRouter,
        PWEMoE,
        RandomSearch,
        ReferenceMAP,
        RewardedSoup,
        Scalarization,
        ScaledSoup,
        SimplexGrid,
        get_algorithm,
    )
    from moofusion.comparison import Front, SearchResult, Study, hypervolume, search
    from moofusion.problems import Constraint, MergeProblem, get_problem, list_problems
    from moofusion.tasks import (
        BaseDistance,
        Forgetting,
        FunctionTask,
        Generation,
        HarnessTask,
        ImageClassification,
        LanguageModeling,
        MultipleChoice,
        Prompts,
        Question,
        Sparsity,
        Task,
        TensorClassification,
        TextClassification,
        ZeroShotClassification,
        read_labelled,
    )
    from moofusion.weights import ModelPool, ParameterLayout, TaskVectors

__version__ = "0.1.0"

# Turns that threads of torch (GNU OpenMP) wait for each other before they give way. The 300,000 of
# its own cost most of the time where other programs keep the cores busy, and gain nothing else. It
# is read when torch is loaded, which nothing here does yet.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_HOMES = {
    "moofusion.algorithms": (
        "BayesianMAP",
        "GradientMAP",
        "MAP",
        "NestedMAP",
        "ReferenceMAP",
        "PWEMoE",
        "ParetoRouter",
        "RandomSearch",
        "RewardedSoup",
        "Scalarization",
        "ScaledSoup",
        "SimplexGrid",
        "get_algorithm",
    ),
    "moofusion.comparison": ("Front", "SearchResult", "Study", "hypervolume", "search"),
    "moofusion.problems": ("Constraint", "MergeProblem", "get_problem", "list_problems"),
    "moofusion.tasks": (
        "BaseDistance",
        "Forgetting",
        "FunctionTask",
        "Generation",
        "HarnessTask",
        "ImageClassification",
        "LanguageModeling",
        "MultipleChoice",
        "Prompts",
        "Question",
        "Sparsity",
        "Task",
        "TensorClassification",
        "TextClassification",
        "ZeroShotClassification",
        "read_labelled",
    ),
    "moofusion.weights": ("ModelPool", "ParameterLayout", "TaskVectors"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "MAP",
    "BaseDistance",
    "BayesianMAP",
    "Constraint",
    "Forgetting",
    "Front",
    "FunctionTask",
    "Generation",
    "GradientMAP",
    "HarnessTask",
    "ImageClassification",
    "LanguageModeling",
    "MergeProblem",
    "ModelPool",
    "MultipleChoice",
    "NestedMAP",
    "PWEMoE",
    "ParameterLayout",
    "ParetoRouter",
    "Prompts",
    "Question",
    "RandomSearch",
    "ReferenceMAP",
    "RewardedSoup",
    "Scalarization",
    "ScaledSoup",
    "SearchResult",
    "SimplexGrid",
    "Sparsity",
    "Study",
    "Task",
    "TaskVectors",
    "TensorClassification",
    "TextClassification",
    "ZeroShotClassification",
    "__version__",
    "get_algorithm",
    "get_problem",
    "hypervolume",
    "list_problems",
    "read_labelled",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'moofusion' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
