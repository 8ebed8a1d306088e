"""Merging as pymoo problems: the evaluator, :class:`MergeProblem` and the catalogue."""

from moofusion.problems.catalogue import get_problem, list_problems, problem_spec
from moofusion.problems.constraints import Constraint
from moofusion.problems.evaluator import CostCounter, Evaluation, Evaluator
from moofusion.problems.merge_problem import Anchors, MergeProblem
from moofusion.problems.spec import ProblemSpec
from moofusion.problems.surrogate_problem import SurrogateProblem

__all__ = [
    "Anchors",
    "Constraint",
    "CostCounter",
    "Evaluation",
    "Evaluator",
    "MergeProblem",
    "ProblemSpec",
    "SurrogateProblem",
    "get_problem",
    "list_problems",
    "problem_spec",
]
