"""Merging as a pymoo problem: decision vectors in, objectives of really evaluated models out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from pymoo.core.problem import Problem

from moofusion.errors import ConfigurationError, EvaluationWarning, UnknownNameError
from moofusion.merging import MergeMethod, Space, make_method, make_space, searched_space
from moofusion.problems.constraints import Constraint
from moofusion.problems.evaluator import CostCounter, Evaluation, Evaluator, gradient_cost
from moofusion.problems.handle import EvaluatorHandle
from moofusion.problems.scale import anchor_range, normalized
from moofusion.tasks import Task
from moofusion.weights import ModelPool

if TYPE_CHECKING:
    import torch

    from moofusion.problems.spec import ProblemSpec

__all__ = ["Anchors", "MergeProblem"]

Array = NDArray[np.float64]
Observer = Callable[[Array, Evaluation, bool], None]
#: ``observer(cost, seconds)`` after every gradient: cost units paid, and wall-clock seconds.
GradientObserver = Callable[[float, float], None]

# A failed model without a natural worst value lies this many anchor ranges beyond the nadir.
_FAILURE_RANGES = 10.0


@dataclass(frozen=True)
class Anchors:
    """The base and the experts, measured before anything else; they fix the scale.

    Attributes:
        names: ``"base"`` and the names of the K experts.
        L: Task-wise coefficients, shape ``(K + 1, K)``.
        F: Objectives, shape ``(K + 1, M)``.
        evaluations: All that was measured.

    Example:
        >>> from moofusion.testing import toy_problem
        >>> anchors = toy_problem().anchors()
        >>> anchors.names, anchors.F.shape
        (('base', 'a', 'b', 'c'), (4, 3))
        >>> bool((anchors.ideal <= anchors.nadir).all())
        True
    """

    names: tuple[str, ...]
    L: Array
    F: Array
    evaluations: tuple[Evaluation, ...]

    @property
    def ideal(self) -> Array:
        """Best anchor of each objective, shape ``(M,)``."""
        return np.asarray(self.F.min(axis=0))

    @property
    def nadir(self) -> Array:
        """Worst anchor of each objective, shape ``(M,)``."""
        return np.asarray(self.F.max(axis=0))


class MergeProblem(Problem):
    """Minimize the errors of a merged model over merge coefficients.

    Runs under pymoo's ``minimize`` with any algorithm, by ask-and-tell, and in parallel: copies
    and pickles carry no weights. Every objective is minimized; accuracy becomes
    ``error = 1 - accuracy``. Evaluations are cached by decision vector; those whose
    searched parameters round to the same values count as one.

    Per individual, besides ``F`` (and ``G``), the population holds ``loss`` (M mean losses, NaN
    where a task has none), ``metric`` (the M metrics behind F), ``cost`` (forward samples, 0 if
    answered from the cache), ``seconds`` and ``failed``. With
    ``evaluate(X, return_values_of=["F", "dF"])`` and differentiable objectives (``"loss"``) also
    the Jacobian ``dF`` of shape ``(P, M, n_var)``.

    A candidate whose metrics come out NaN or infinite gets the worst value in every objective,
    ``failed`` = 1, and a warning.

    Args:
        pool: Base and experts.
        tasks: One objective each.
        space: Name of a space, a table ``{"kind": name, **options}``, or a function
            ``(layout, experts) -> Space``.
        merge: Name of a merge method, a table ``{"method": name, **parameters}``, or a method. In a
            table ``"search"`` names parameters that become decision variables:
            ``{"method": "ties", "search": ["density"]}``, or with bounds
            ``{"method": "ties", "search": {"density": [0.1, 0.5]}}``; of whole numbers the bounds,
            of choices the options: ``{"method": "dare", "search": {"elect": [False, True]}}``.
        constraints: Conditions on measured metrics.
        split: Split that optimizers see.
        device: ``"auto"`` (GPU where there is one), ``"cpu"``, ``"cuda"``, ...
        title: Name of the problem in tables.
        **kwargs: Passed to :class:`pymoo.core.problem.Problem`.

    Raises:
        ConfigurationError: No task, two of one name, an unknown space, method or constraint.
        PoolError: The models do not fit together.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from moofusion.tasks import TensorClassification
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.randn(64, 4), torch.arange(64) % 2
        >>> pool = ModelPool(nn.Linear(4, 2), {"a": nn.Linear(4, 2), "b": nn.Linear(4, 2)})
        >>> tasks = [TensorClassification(name, {"search": (sign * x, y)}, classes=2)
        ...          for name, sign in (("plain", 1), ("flipped", -1))]
        >>> problem = MergeProblem(pool, tasks)
        >>> problem.evaluate(np.array([[0.5, 0.5]])).shape
        (1, 2)
    """

    def __init__(
        self,
        pool: ModelPool,
        tasks: Sequence[Task],
        *,
        space: str | Mapping[str, Any] | Callable[..., Space] = "task-wise",
        merge: str | Mapping[str, Any] | MergeMethod = "linear",
        constraints: Sequence[Constraint] = (),
        split: str = "search",
        device: str = "auto",
        title: str = "merge",
        **kwargs: Any,
    ) -> None:
        _check_tasks(tasks, split)
        recipe = partial(_open_evaluator, pool, tuple(tasks), space, merge, device)
        self._setup(EvaluatorHandle(recipe), constraints, split, title, kwargs)

    @classmethod
    def from_recipe(
        cls,
        recipe: Callable[[], Evaluator],
        *,
        constraints: Sequence[Constraint] = (),
        split: str = "search",
        title: str = "merge",
        **kwargs: Any,
    ) -> MergeProblem:
        """Problem on the evaluator that a picklable `recipe` opens (used by the catalogue)."""
        problem = cls.__new__(cls)
        problem._setup(EvaluatorHandle(recipe), constraints, split, title, kwargs)
        return problem

    def _setup(
        self,
        handle: EvaluatorHandle,
        constraints: Sequence[Constraint],
        split: str,
        title: str,
        kwargs: dict[str, Any],
    ) -> None:
        evaluator = handle.evaluator
        _check_tasks(evaluator.tasks, split)
        self.title = title
        self.split = split
        self.constraints = tuple(constraints)
        self.spec: ProblemSpec | None = None
        self.observers: list[Observer] = []
        self.gradient_observers: list[GradientObserver] = []
        self._handle = handle
        self._cache: dict[tuple[str, bytes], Evaluation] = {}
        self._anchors: dict[str, Anchors] = {}
        space = evaluator.space
        for constraint in self.constraints:
            constraint.check(evaluator.tasks, space.experts)
        super().__init__(
            n_var=space.n_var,
            n_obj=len(evaluator.tasks),
            n_ieq_constr=len(self.constraints),
            xl=space.xl,
            xu=space.xu,
            vtype=float,
            **kwargs,
        )

    # ------------------------------------------------------------------ what it is made of

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator, opened in this process if need be."""
        return self._handle.evaluator

    @property
    def tasks(self) -> Sequence[Task]:
        """Tasks, one objective each."""
        return self.evaluator.tasks

    @property
    def space(self) -> Space:
        """Search space."""
        return self.evaluator.space

    @property
    def counter(self) -> CostCounter:
        """What has been paid in this process."""
        return self.evaluator.counter

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the objectives."""
        return tuple(task.name for task in self.tasks)

    @property
    def has_test_split(self) -> bool:
        """Whether every task has held-out data for the report."""
        return all(task.has_split("test") for task in self.tasks)

    def fingerprint(self, split: str | None = None) -> str:
        """Hash of weights, space, constraints and data of a split."""
        found = self.evaluator.fingerprint(split or self.split)
        return (
            xxhash.xxh3_128_hexdigest(f"{found}{self.constraints}".encode())
            if self.constraints
            else found
        )

    def name(self) -> str:
        """Title of the problem."""
        return self.title

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title!r}, {', '.join(self.task_names)}, {self.space})"

    # ------------------------------------------------------------------ evaluation

    def record(self, x: Array, *, split: str | None = None) -> Evaluation:
        """Everything measured of one decision vector on one split (default: the search split)."""
        return self._recorded(np.asarray(x, float), split or self.split)[0]

    def remember(self, x: Array, evaluation: Evaluation, *, split: str | None = None) -> None:
        """Put a known evaluation into the cache, so that it is not paid again."""
        self._cache[self._key(np.asarray(x, float), split or self.split)] = evaluation

    def objectives(self, evaluations: Sequence[Evaluation]) -> Array:
        """Objectives ``(P, M)``; a failed evaluation gets the worst value in all of them."""
        F = np.array(
            [
                [
                    task.objective.objective(m.metrics[task.objective.name])
                    for task, m in zip(self.tasks, evaluation.measurements, strict=True)
                ]
                for evaluation in evaluations
            ]
        ).reshape(len(evaluations), self.n_obj)
        failed = np.array([evaluation.failed for evaluation in evaluations], bool)
        if failed.any():
            F[failed] = self._worst()
        return F

    def feasible(self, evaluations: Sequence[Evaluation]) -> NDArray[np.bool_]:
        """Which evaluations meet every constraint, shape ``(P,)``."""
        if not self.constraints:
            return np.ones(len(evaluations), bool)
        return np.asarray((self._violations(evaluations) <= 0).all(axis=1))

    def measured(self, X: Array, *, split: str | None = None) -> Array:
        """Objectives ``(P, M)`` of decision vectors on a split, for reports."""
        rows = np.atleast_2d(np.asarray(X, float))
        return self.objectives([self.record(x, split=split) for x in rows])

    def measured_uniform(
        self,
        L: Array,
        *,
        split: str | None = None,
        method: str | Mapping[str, Any] | MergeMethod = "linear",
    ) -> list[Evaluation]:
        """Evaluate task-wise coefficients ``(P, K)`` on all tensors, outside of space and method.

        Args:
            L: Coefficients, a row for each merge.
            split: Split to measure on (default: the search split).
            method: Name of a merge method, a table ``{"method": name, **parameters}``, or a method;
                whatever the problem's own is.
        """
        rows = np.atleast_2d(np.asarray(L, float))
        return self.evaluator.measure_uniform(rows, split or self.split, method=make_method(method))

    def losses_and_grads(
        self,
        x: Array,
        tasks: Sequence[str | int] | None = None,
        *,
        split: str = "train",
        indices: Sequence[NDArray[np.int64] | None] | None = None,
        groups: NDArray[np.bool_] | None = None,
    ) -> tuple[Array, Array]:
        """Mean losses of tasks and their gradients with respect to the decision vector.

        One merge, and for each task one forward and backward pass, which costs 3 units a sample;
        `gradient_observers` are told.

        Args:
            x: Decision vector, shape ``(n_var,)``.
            tasks: Names or indices of M tasks; None for all.
            split: Split the samples come from.
            indices: For each of the tasks the samples of that split; None for all.
            groups: Which groups are differentiated, shape ``(G,)``; the others count as fixed,
                which makes the backward pass cheaper. None for all.

        Returns:
            The losses ``(M,)``, and the gradients ``(M, n_var)``.

        Raises:
            UnknownNameError: There is no task of that name.
            ConfigurationError: A task has no differentiable loss, or no samples were given.
        """
        x = np.asarray(x, float)
        chosen = [self._task(task) for task in (range(self.n_obj) if tasks is None else tasks)]
        started = time.perf_counter()
        losses, dL = self.evaluator.losses_and_grads(
            self.space.coefficients(x[None])[0],
            chosen,
            split=split,
            indices=indices,
            groups=groups,
        )
        seconds = time.perf_counter() - started
        cost = float(gradient_cost(chosen, split, indices).cost)
        for observer in self.gradient_observers:
            observer(cost, seconds)
        return losses, np.array([self.space.pullback(x, row) for row in dL])

    def loss_and_grad(
        self,
        x: Array,
        task: str | int,
        *,
        split: str = "train",
        indices: NDArray[np.int64] | None = None,
    ) -> tuple[float, Array]:
        """:meth:`losses_and_grads` of one task: its loss, and the gradient ``(n_var,)``."""
        losses, gradients = self.losses_and_grads(x, [task], split=split, indices=[indices])
        return float(losses[0]), gradients[0]

    def _task(self, task: str | int) -> Task:
        if isinstance(task, str):
            if task not in self.task_names:
                raise UnknownNameError("task", task, self.task_names)
            task = self.task_names.index(task)
        return self.tasks[task]

    def _evaluate(self, X: Array, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if self.elementwise:  # pymoo's runners hand over one vector at a time
            single = dict(out)
            self._evaluate_rows(np.asarray(X, float)[None], single)
            out.update({key: values[0] for key, values in single.items()})
        else:
            self._evaluate_rows(np.asarray(X, float), out)

    def _evaluate_elementwise(
        self, X: Array, out: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        super()._evaluate_elementwise(X, out, *args, **kwargs)
        # pymoo does not tell single evaluations what is asked for.
        if "dF" in out:
            out["dF"] = self._jacobians(np.asarray(X, float))

    def _evaluate_rows(self, X: Array, out: dict[str, Any]) -> None:
        pairs = [self._recorded(x, self.split) for x in X]
        found = [evaluation for evaluation, _ in pairs]
        out["F"] = self.objectives(found)
        if self.constraints:
            out["G"] = self._violations(found)
        out["loss"] = self._values(found, "loss")
        out["metric"] = self._values(found, None)
        out["cost"] = np.array([0.0 if hit else e.cost for e, hit in pairs])
        out["seconds"] = np.array([e.seconds for e in found])
        out["failed"] = np.array([float(e.failed) for e in found])
        if "dF" in out:
            out["dF"] = self._jacobians(X)

    def _recorded(self, x: Array, split: str) -> tuple[Evaluation, bool]:
        if x.shape != (self.n_var,):
            raise ConfigurationError(
                f"{self.title}: a decision vector has shape {x.shape}, expected ({self.n_var},)"
            )
        key = self._key(x, split)
        hit = key in self._cache
        if not hit:
            evaluation = self.evaluator.measure(
                self.space.coefficients(x[None]), split, parameters=self.space.parameters(x[None])
            )[0]
            if evaluation.failed:
                warnings.warn(
                    f"{self.title}: a candidate gave NaN or infinite metrics on the {split} split "
                    "and was recorded as failed with the worst objectives",
                    EvaluationWarning,
                    stacklevel=2,
                )
            self._cache[key] = evaluation
        evaluation = self._cache[key]
        if split == self.split:
            for observer in self.observers:
                observer(x, evaluation, hit)
        return evaluation, hit

    def _key(self, x: Array, split: str) -> tuple[str, bytes]:
        return split, self.space.canonical(x[None])[0].tobytes()

    def _values(self, found: Sequence[Evaluation], metric: str | None) -> Array:
        return np.array(
            [
                [
                    m.metrics.get(metric or task.objective.name, np.nan)
                    for task, m in zip(self.tasks, e.measurements, strict=True)
                ]
                for e in found
            ]
        )

    def _worst(self) -> Array:
        known = [task.objective.worst for task in self.tasks]
        if all(value is not None for value in known):
            return np.array(known, float)
        anchors = self.anchors()
        far = anchors.nadir + _FAILURE_RANGES * anchor_range(anchors.ideal, anchors.nadir)
        return np.array([f if v is None else v for f, v in zip(far, known, strict=True)])

    def _jacobians(self, X: Array) -> Array:
        for task in self.tasks:
            if task.objective.name != "loss":
                raise ConfigurationError(
                    f"dF needs differentiable objectives, but task {task.name!r} measures "
                    f"{task.objective.name!r}; build the problem with objective 'loss'"
                )
        return np.array([self.losses_and_grads(x, split=self.split)[1] for x in X])

    def _violations(self, found: Sequence[Evaluation]) -> Array:
        names = ["base", *self.space.experts]
        anchors = self.anchors() if any(c.relative_to for c in self.constraints) else None
        rows = []
        for evaluation in found:
            row = []
            for constraint in self.constraints:
                index = self.task_names.index(constraint.task)
                against = None
                if constraint.relative_to is not None and anchors is not None:
                    against = anchors.evaluations[names.index(constraint.relative_to)]
                row.append(constraint.violation(evaluation, index, self.tasks[index], against))
            rows.append(row)
        return np.array(rows)

    # ------------------------------------------------------------------ scale

    def anchors(self, split: str | None = None) -> Anchors:
        """The base and the experts on a split; measured once, outside every budget."""
        split = split or self.split
        if split not in self._anchors:
            K = self.space.n_experts
            L = np.vstack([np.zeros(K), np.eye(K)])
            found = tuple(self.evaluator.measure_uniform(L, split))
            names = ("base", *self.space.experts)
            for name, evaluation in zip(names, found, strict=True):
                if evaluation.failed:
                    raise ConfigurationError(
                        f"{self.title}: the {name} model itself gives NaN or infinite metrics on "
                        f"the {split} split; nothing can be compared with it"
                    )
            self._anchors[split] = Anchors(names, L, self.objectives(found), found)
        return self._anchors[split]

    def normalize(self, F: Array, *, split: str | None = None) -> Array:
        """Scale objectives by the anchors: 0 is the best anchor, 1 the worst, in each objective.

        Args:
            F: Objectives, shape ``(P, M)``.
            split: Split whose anchors are the scale (default: the search split).
        """
        anchors = self.anchors(split)
        return normalized(F, anchors.ideal, anchors.nadir)

    # ------------------------------------------------------------------ copies

    def __deepcopy__(self, memo: dict[int, Any]) -> MergeProblem:
        # Weights, cache and observers are shared: a copy is for bookkeeping, not another problem.
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(self.__dict__)
        twin.xl, twin.xu = self.xl.copy(), self.xu.copy()
        return twin

    def __copy__(self) -> MergeProblem:
        return self.__deepcopy__({})

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["observers"], state["gradient_observers"] = [], []
        state["_cache"] = {}
        return state


def _check_tasks(tasks: Sequence[Task], split: str) -> None:
    if not tasks:
        raise ConfigurationError("a merge problem needs at least one task, got none")
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"tasks must have different names; {twice} occur twice")
    for task in tasks:
        task.require(split)


def _open_evaluator(
    pool: ModelPool,
    tasks: Sequence[Task],
    space: str | Mapping[str, Any] | Callable[..., Space],
    merge: str | Mapping[str, Any] | MergeMethod,
    device: str,
) -> Evaluator:
    """Load the pool on the device and put the space on its layout."""
    options = dict(merge) if isinstance(merge, Mapping) else {}
    search = options.pop("search", ())
    method = make_method(options or merge)
    loaded = pool.load(device=_device(device))
    if callable(space):
        built = space(loaded.layout, pool.names)
    else:
        options = {"kind": space} if isinstance(space, str) else dict(space)
        built = make_space(options.pop("kind", "task-wise"), loaded.layout, pool.names, **options)
    return Evaluator(loaded, tuple(tasks), searched_space(built, method, search), method=method)


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        usable = " or ".join(["auto", "cpu", *(kind for kind, found in here.items() if found)])
        raise ConfigurationError(
            f"device {name!r} cannot be used here; this machine has {usable}"
        ) from error
