"""What merge methods measure of the experts on their own training data, in one pass each."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from moofusion.errors import ConfigurationError
from moofusion.merging.methods.sparse import seeded
from moofusion.tasks import ClassificationTask, Task
from moofusion.weights import LoadedPool

if TYPE_CHECKING:
    from moofusion.problems.evaluator import CostCounter

__all__ = ["TrainStatistics"]

_CHUNK = 50  # samples per forward pass
_KEPT_BYTES = 1 << 30  # statistics that are kept for other problems of the process

T = TypeVar("T")


class TrainStatistics:
    """Fisher information and input products of every expert on the train split of its tasks.

    The tasks of an expert are those whose head it carries. Samples are drawn without replacement
    by the seed. What was measured stays in memory, also for other problems of this process with
    the same models, heads and train data; the cost goes to `counter` of the one that measures.

    Args:
        pool: Loaded models.
        tasks: All tasks.
        modules: For each task the module it is measured with.
        counter: Takes the cost.
        lock: Held while the shared weights are in use.
        fingerprint: Hash of the models, and of the heads and train data of some tasks.
    """

    def __init__(
        self,
        pool: LoadedPool,
        tasks: Sequence[Task],
        modules: Sequence[nn.Module],
        counter: CostCounter,
        lock: threading.RLock,
        fingerprint: Callable[[Sequence[Task]], str],
    ) -> None:
        self.pool, self.tasks, self.counter = pool, tasks, counter
        self._modules = dict(zip((task.name for task in tasks), modules, strict=True))
        self._lock, self._fingerprint = lock, fingerprint
        self._fisher: dict[tuple[int, int], Tensor] = {}
        self._grams: dict[tuple[int, int], dict[str, tuple[Tensor, bool]]] = {}

    def fisher(self, samples: int, seed: int) -> Tensor:
        """Diagonal Fisher information, shape ``(K, D)``: mean squared gradient of one sample.

        The gradient is that of the log-likelihood of a label drawn from the prediction for
        classification (Matena & Raffel 2021, equation 3), of the loss for other tasks (the
        "empirical" information).
        """
        with self._lock:
            if (samples, seed) not in self._fisher:
                self._fisher[samples, seed] = _MEASURED.get(
                    self._key("fisher", samples, seed),
                    lambda: self._measure_fisher(samples, seed),
                    lambda found: [found],
                )
            return self._fisher[samples, seed]

    def _measure_fisher(self, samples: int, seed: int) -> Tensor:
        model = self.pool.model
        result = torch.zeros(self.pool.vectors.n_experts, *model.weights.shape)
        result = result.to(model.device)
        everything = self.pool.layout.partition("model")
        for expert, task, rows, weight in self._visits(samples, seed):
            generator = seeded(seed, self.pool.vectors.names[expert], task.name)
            flat = model.gradient_buffer(everything)
            try:
                for row in rows:
                    flat.zero_()
                    _log_likelihood(task, self._modules[task.name], row, generator).backward()  # type: ignore[no-untyped-call]
                    result[expert].addcmul_(flat, flat, value=weight)
            finally:
                model.release_gradients()
            self.counter.backward += len(rows)
        return result

    def grams(self, samples: int, seed: int) -> Mapping[str, tuple[Tensor, bool]]:
        """For each merged linear layer the mean ``x x^T`` of its inputs, ``(K, inputs, inputs)``.

        Beside it, whether the weight is stored as ``(inputs, outputs)``, as GPT-2's are.
        """
        with self._lock:
            if (samples, seed) not in self._grams:
                self._grams[samples, seed] = _MEASURED.get(
                    self._key("grams", samples, seed),
                    lambda: self._measure_grams(samples, seed),
                    lambda found: [gram for gram, _ in found.values()],
                )
            return self._grams[samples, seed]

    def _measure_grams(self, samples: int, seed: int) -> dict[str, tuple[Tensor, bool]]:
        K = self.pool.vectors.n_experts
        sums: dict[str, tuple[Tensor, bool]] = {}
        seen: dict[str, list[int]] = {}
        for expert, task, rows, _ in self._visits(samples, seed):
            module = self._modules[task.name]
            hooks = []
            for name, layer in _linear_layers(module, self.pool):
                transposed = _stored_transposed(layer)
                if name not in sums:
                    size = layer.weight.shape[0 if transposed else 1]
                    zeros = torch.zeros(K, size, size, device=layer.weight.device)
                    sums[name], seen[name] = (zeros, transposed), [0] * K
                add = partial(_add, into=sums[name][0][expert], seen=seen[name], expert=expert)
                hooks.append(layer.register_forward_pre_hook(add))
            try:
                with torch.no_grad():
                    for start in range(0, len(rows), _CHUNK):
                        task.loss(module, "train", rows[start : start + _CHUNK])
            finally:
                for hook in hooks:
                    hook.remove()
            self.counter.forward += len(rows)
        for name, (gram, _) in sums.items():
            gram /= torch.tensor(seen[name], device=gram.device).clamp_(min=1)[:, None, None]
        return sums

    def _key(self, kind: str, samples: int, seed: int) -> str | None:
        """What decides the statistics; None where a task does not tell what its data are."""
        own = [task for tasks in self._tasks_of_experts() for task in tasks]
        if any(type(task).fingerprint is Task.fingerprint for task in own):
            return None
        model = self.pool.model
        how = f"{model.device} {model.weights.dtype} {model.modules['base']}"
        return f"{kind} {samples} {seed} {how} {self._fingerprint(own)}"

    def _tasks_of_experts(self) -> Iterator[list[Task]]:
        """The tasks that each expert is measured on; every one has a train split."""
        for name in self.pool.vectors.names:
            own = [t for t in self.tasks if self._modules[t.name] is self.pool.model.modules[name]]
            if not own:
                raise ConfigurationError(
                    f"this merge method measures every expert on training data, but no task uses "
                    f"the head of expert {name!r}; add one (head = {name!r}), or leave it out"
                )
            for task in own:
                task.require("train")
            yield own

    def _visits(
        self, samples: int, seed: int
    ) -> Iterator[tuple[int, Task, NDArray[np.int64], float]]:
        """Experts in place of the weights, each with its tasks and the share of one sample."""
        vectors = self.pool.vectors
        for index, own in enumerate(self._tasks_of_experts()):
            self.pool.model.weights.copy_(vectors.expert(index))
            for task in own:
                total = task.n_samples("train")
                rng = np.random.default_rng(seed)
                rows = np.sort(rng.permutation(total)[:samples])
                yield index, task, rows, 1 / (len(rows) * len(own))


class _Measured:
    """Statistics that were measured last in this process, as far as memory allows."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self, key: str | None, measure: Callable[[], T], tensors: Callable[[T], list[Tensor]]
    ) -> T:
        """What is known under `key`, or else what `measure` gives, which is kept."""
        with self._lock:
            if key is not None and key in self._found:
                self._found.move_to_end(key)
                return cast(T, self._found[key][0])
        found = measure()
        if key is not None:
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors(found))
            with self._lock:
                self._found[key] = found, size
                while sum(size for _, size in self._found.values()) > _KEPT_BYTES:
                    self._found.popitem(last=False)
        return found

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._found.clear()


_MEASURED = _Measured()


def _add(
    _: nn.Module, inputs: tuple[Tensor, ...], *, into: Tensor, seen: list[int], expert: int
) -> None:
    """Forward hook of a linear layer: add up ``x x^T`` of its inputs and count them."""
    x = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
    into.addmm_(x.T, x)
    seen[expert] += len(x)


def _log_likelihood(task: Task, module: nn.Module, row: int, generator: torch.Generator) -> Tensor:
    if not isinstance(task, ClassificationTask):
        return task.loss(module, "train", np.array([row]))
    inputs, _ = task.data("train")
    scores = task.logits(module, {k: v[row : row + 1] for k, v in inputs.items()}).float()
    chances = scores.detach().softmax(1).cpu()
    label = torch.multinomial(chances, 1, generator=generator).flatten().to(scores.device)
    return functional.cross_entropy(scores, label)


def _linear_layers(module: nn.Module, pool: LoadedPool) -> list[tuple[str, Any]]:
    """Linear layers whose weight is merged, by the name of the weight; tied ones once."""
    names = pool.model.merged_names()
    found: dict[str, Any] = {}
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if (isinstance(layer, nn.Linear) or _stored_transposed(layer)) and id(weight) in names:
            found.setdefault(names[id(weight)], layer)
    return list(found.items())


def _stored_transposed(layer: nn.Module) -> bool:
    """Whether it is the linear layer of GPT-2, which transformers calls Conv1D."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")
