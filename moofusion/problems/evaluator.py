"""The evaluator: coefficients in, metrics of really merged models out, with the cost counted."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor, nn

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging import Linear, LinearMerge, Merge, MergeMethod, Space
from moofusion.problems.statistics import TrainStatistics
from moofusion.tasks import Measurement, Task
from moofusion.weights import LoadedPool
from moofusion.weights.layout import Partition
from moofusion.weights.vectors import tensor_bytes

__all__ = ["CostCounter", "Evaluation", "Evaluator", "gradient_cost"]

Array = NDArray[np.float64]

# Rewritten task vectors that are kept: this many bytes, but at least the problem's own method,
# plain task arithmetic for the anchors, and one more.
_BOUND_BYTES = 1 << 30
_LEAST_BOUND = 3


@dataclass
class CostCounter:
    """What has been paid so far; the cost axis of every comparison.

    Attributes:
        merges: Number of merges.
        forward: Samples that went forward only.
        backward: Samples that went forward and backward.
        seconds: Wall-clock seconds spent merging and measuring.

    Example:
        >>> from moofusion.testing import toy_problem
        >>> problem = toy_problem()  # three tasks of 48 samples
        >>> _ = problem.evaluate([[0.3, 0.3, 0.3], [0.5, 0.2, 0.1]])
        >>> problem.counter.merges, problem.counter.cost
        (2, 288)
    """

    merges: int = 0
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0

    @property
    def cost(self) -> int:
        """Cost units: 1 for a forward sample, 3 for forward and backward."""
        return self.forward + 3 * self.backward


def gradient_cost(
    tasks: Sequence[Task],
    split: str,
    indices: Sequence[NDArray[np.int64] | None] | None = None,
) -> CostCounter:
    """What the losses of tasks and their gradients cost.

    Args:
        tasks: M tasks.
        split: Split the samples come from.
        indices: For each task the samples of that split; None for all.
    """
    chosen = [None] * len(tasks) if indices is None else indices
    paid = CostCounter()
    for task, rows in zip(tasks, chosen, strict=True):
        forward, backward = task.passes(split, rows, gradient=True)
        paid.forward += forward
        paid.backward += backward
    return paid


@dataclass(frozen=True)
class Evaluation:
    """Everything measured of one merged model on one split.

    Attributes:
        measurements: One for each task.
        failed: Whether a metric came out NaN or infinite.
        cost: Cost units paid (forward samples).
        seconds: Wall-clock seconds of the merge and the forward passes.

    Example:
        >>> from moofusion.testing import toy_problem
        >>> found = toy_problem().record([0.3, 0.3, 0.3], split="test")
        >>> len(found.measurements), sorted(found.measurements[0].metrics)
        (3, ['accuracy', 'ece', 'loss', 'macro_f1'])
        >>> found.failed, found.cost
        (False, 108.0)
    """

    measurements: tuple[Measurement, ...]
    failed: bool
    cost: float
    seconds: float


@dataclass
class Evaluator:
    """Merges into the flat buffer and measures all tasks on one split.

    An evaluation is one pass over the weights plus the forward passes. The same device, number
    of threads and coefficients give the same numbers. Calls from several threads take turns.

    Attributes:
        pool: Loaded models.
        tasks: Tasks, one objective each.
        space: Search space; its partition and static coefficients define the merge.
        counter: What has been paid.
        method: How coefficients become weights.

    Raises:
        UnknownNameError: A task names a head that no model of the pool has.

    Example:
        >>> import numpy as np
        >>> from moofusion.testing import toy_problem
        >>> evaluator = toy_problem().evaluator
        >>> halves = np.full((1, 1, 3), 0.5)  # candidates, groups, experts
        >>> [found.failed for found in evaluator.measure(halves, "search")]
        [False]
    """

    pool: LoadedPool
    tasks: Sequence[Task]
    space: Space
    counter: CostCounter = field(default_factory=CostCounter)
    method: MergeMethod = field(default_factory=Linear)

    def __post_init__(self) -> None:
        modules = self.pool.model.modules
        for task in self.tasks:
            if task.head is not None and task.head not in modules:
                raise UnknownNameError(f"head of task {task.name!r}", task.head, modules)
            task.prepare(self.pool.model.device)
        self._bound: OrderedDict[tuple[MergeMethod, str], Merge] = OrderedDict()
        self._lock = threading.RLock()
        self.statistics = TrainStatistics(
            self.pool,
            self.tasks,
            [self.module(task) for task in self.tasks],
            self.counter,
            self._lock,
            self._train_fingerprint,
        )

    def module(self, task: Task) -> nn.Module:
        """Module that carries the head of `task`, on the shared weights."""
        modules = self.pool.model.modules
        return modules[task.head or (task.name if task.name in modules else "base")]

    def exclusive(self) -> AbstractContextManager[object]:
        """Keep other threads from the flat weights within a ``with`` block."""
        return self._lock

    def measure(
        self, L: Array, split: str, *, parameters: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Evaluation]:
        """Evaluate coefficients one candidate after the other.

        Args:
            L: Coefficients, shape ``(P, G, K)``.
            split: ``"search"`` or ``"test"``.
            parameters: For each candidate the parameters of the method that differ from its own.

        Returns:
            P evaluations in order.
        """
        changes = [{}] * len(L) if parameters is None else parameters
        return [
            self._measure(self.merge(change), row, split)
            for row, change in zip(L, changes, strict=True)
        ]

    def measure_uniform(
        self, L: Array, split: str, *, method: MergeMethod | None = None
    ) -> list[Evaluation]:
        """Evaluate task-wise coefficients ``(P, K)`` on all tensors, whatever the space is.

        The merge is task arithmetic, so that one-hot rows are the experts, unless another `method`
        is named.
        """
        merge = self._whole_model(method)
        return [self._measure(merge, row[None], split) for row in np.asarray(L, float)]

    def losses_and_grads(
        self,
        L: Array,
        tasks: Sequence[Task],
        *,
        split: str = "train",
        indices: Sequence[NDArray[np.int64] | None] | None = None,
        groups: NDArray[np.bool_] | None = None,
        chunk: int = 500,
    ) -> tuple[Array, Array]:
        """Mean losses of tasks and their gradients with respect to the coefficients.

        One merge; for each task one forward and backward pass in chunks and one pass over the task
        vectors. Running statistics of batch norms are merged, but autograd does not see them: for
        models that have them the gradient is approximate.

        Args:
            L: Coefficients of one candidate, shape ``(G, K)``.
            tasks: M of the tasks.
            split: Split the samples come from.
            indices: For each task the samples of that split; None for all.
            groups: Which groups are differentiated, shape ``(G,)``; the gradient of the others is
                given as zero, and their weights take none. None for all.
            chunk: Samples per pass; bounds the memory.

        Returns:
            The losses ``(M,)`` and dLoss/dL of shape ``(M, G, K)``.

        Raises:
            ConfigurationError: A task has no differentiable loss, no samples were given, or the
                merge method has no gradient.
        """
        merge = self.merge()
        if not isinstance(merge, LinearMerge):
            raise ConfigurationError(
                f"merge method {self.method.name!r} is not linear in the coefficients and has no "
                "gradient; choose a method that rewrites task vectors, or an algorithm that needs "
                "no gradients"
            )
        chosen = [
            _samples(t, split, i)
            for t, i in zip(tasks, [None] * len(tasks) if indices is None else indices, strict=True)
        ]
        model, wanted = self.pool.model, self.space.partition
        if groups is not None and not np.all(groups):
            wanted = wanted.only(groups)
        losses, gradients = np.zeros(len(tasks)), []
        with self._lock:
            started = time.perf_counter()
            merge(L, out=model.weights)
            for j, (task, rows) in enumerate(zip(tasks, chosen, strict=True)):
                flat = model.gradient_buffer(wanted)
                try:
                    for start in range(0, len(rows), chunk):
                        part = rows[start : start + chunk]
                        loss = task.loss(self.module(task), split, part)
                        loss = loss * (len(part) / len(rows))
                        loss.backward()  # type: ignore[no-untyped-call]
                        losses[j] += float(loss.detach())
                finally:
                    model.release_gradients()
                gradients.append(merge.gradient(flat, L, groups=wanted))
            self.counter.merges += 1
            paid = gradient_cost(tasks, split, chosen)
            self.counter.forward += paid.forward
            self.counter.backward += paid.backward
            self.counter.seconds += time.perf_counter() - started
        return losses, np.array(gradients)

    def loss_and_grad(self, L: Array, task: Task, **options: Any) -> tuple[float, Array]:
        """:meth:`losses_and_grads` of one task: its loss, and the gradient ``(G, K)``."""
        if "indices" in options:
            options["indices"] = [options["indices"]]
        losses, gradients = self.losses_and_grads(L, [task], **options)
        return float(losses[0]), gradients[0]

    def weights(self, L: Array, *, parameters: Mapping[str, Any] | None = None) -> Tensor:
        """A copy of the merged flat weights ``(D,)`` for coefficients ``(G, K)``."""
        with self._lock:
            return self.merge(parameters)(L, out=self.pool.model.weights).clone()

    def uniform_weights(self, row: Array, *, method: MergeMethod | None = None) -> Tensor:
        """The same for task-wise coefficients ``(K,)`` on all tensors, by task arithmetic."""
        merge = self._whole_model(method)
        with self._lock:
            return merge(row[None], out=self.pool.model.weights).clone()

    def fingerprint(self, split: str) -> str:
        """Hash of weights, heads, space and data: equal fingerprints, equal metrics for equal x."""
        space = self.space
        digest = xxhash.xxh3_128(self.weights_fingerprint.encode())
        digest.update(repr((space, space.partition.segments, space.experts)).encode())
        if self.method != Linear():
            digest.update(repr(self.method).encode())
        digest.update(np.concatenate([space.xl, space.xu, space.static]).tobytes())
        # What the space makes of two decision vectors tells its other options (scale, basis).
        place = np.modf(np.arange(1, space.n_var + 1) * 0.6180339887498949)[0]
        probes = space.xl + (space.xu - space.xl) * np.stack([place, 1 - place])
        digest.update(np.round(space.coefficients(probes), 9).tobytes())
        self._digest_tasks(digest, split, self.tasks)
        return digest.hexdigest()

    def tasks_fingerprint(self, split: str) -> str:
        """Hash of data, metrics and heads: what measures a model, whatever its weights are."""
        digest = xxhash.xxh3_128()
        self._digest_tasks(digest, split, self.tasks)
        return digest.hexdigest()

    def _train_fingerprint(self, tasks: Sequence[Task]) -> str:
        """Hash of all models, and of what these tasks train on, in the order of the experts."""
        names = [(task.name, task.head) for task in tasks]
        digest = xxhash.xxh3_128(f"{self.weights_fingerprint}{names}".encode())
        self._digest_tasks(digest, "train", tasks)
        return digest.hexdigest()

    def _digest_tasks(self, digest: xxhash.xxh3_128, split: str, tasks: Sequence[Task]) -> None:
        for task in tasks:
            # All metrics, not the objective alone: stores keep them by position.
            names = [metric.name for metric in task.metrics]
            digest.update(f"{task.objective}{names}{task.fingerprint(split)}".encode())
            module = self.module(task)
            state = module.state_dict()
            for name in self.pool.model.head_names(module):
                digest.update(name.encode())
                digest.update(tensor_bytes(state[name].flatten()))

    @cached_property
    def weights_fingerprint(self) -> str:
        """Hash of base and task vectors, whatever the space and the tasks are."""
        return self.pool.vectors.fingerprint()

    def merge(self, parameters: Mapping[str, Any] | None = None) -> Merge:
        """The merge of the space's groups, for other parameters of the method than its own."""
        return self._bind(self.method.at(parameters or {}), self.space.partition)

    def _whole_model(self, method: MergeMethod | None) -> Merge:
        return self._bind(method or Linear(), self._one_group)

    def _bind(self, method: MergeMethod, partition: Partition) -> Merge:
        """The method on these groups; those last used are kept, as far as memory allows."""
        key = method, repr(partition.segments)
        with self._lock:
            if key not in self._bound:
                self._bound[key] = method.bind(
                    self.pool.vectors,
                    partition,
                    static=self.space.static,
                    statistics=self.statistics,
                )
                own = self.pool.vectors.deltas
                keep = max(_LEAST_BOUND, int(_BOUND_BYTES / (own.numel() * own.element_size())))
                while len(self._bound) > keep:
                    self._bound.popitem(last=False)
            self._bound.move_to_end(key)
            return self._bound[key]

    @cached_property
    def _one_group(self) -> Partition:
        return self.pool.layout.partition("model")

    def _measure(self, merge: Merge, L: Array, split: str) -> Evaluation:
        if L.shape != (merge.partition.n_groups, merge.vectors.n_experts):
            raise ConfigurationError(
                f"coefficients have shape {L.shape}, expected (G, K) = "
                f"({merge.partition.n_groups}, {merge.vectors.n_experts})"
            )
        with self._lock:
            started = time.perf_counter()
            merge(L, out=self.pool.model.weights)
            found = tuple(task.evaluate(self.module(task), split) for task in self.tasks)
            seconds = time.perf_counter() - started
            samples = sum(m.n_samples for m in found)
            self.counter.merges += 1
            self.counter.forward += samples
            self.counter.seconds += seconds
        return Evaluation(found, not all(m.is_finite for m in found), float(samples), seconds)


def _samples(task: Task, split: str, indices: NDArray[np.int64] | None) -> NDArray[np.int64]:
    rows = np.arange(task.n_samples(split)) if indices is None else indices
    if len(rows) == 0:
        raise ConfigurationError(
            f"task {task.name!r} has no samples to differentiate on in its {split!r} split"
        )
    return rows
