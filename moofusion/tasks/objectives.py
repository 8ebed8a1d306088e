"""Objectives beside the tasks: how far the merge moved from the base, and what it forgot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import kl_div

from moofusion.errors import ConfigurationError, PoolError
from moofusion.tasks.base import SPLITS, Measurement, Metric, Task
from moofusion.tasks.classification import ClassificationTask
from moofusion.tasks.language import LanguageModeling, token_scores
from moofusion.weights.vectors import tensor_bytes

__all__ = ["BaseDistance", "Forgetting", "Sparsity"]


class _AgainstBase(Task):
    """What tasks share that compare the merge with its base."""

    def __init__(
        self,
        name: str,
        base: str | Path | nn.Module,
        *,
        head: str | None = None,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(name, head=head)
        self._source = base
        self._allow_pickle = allow_pickle
        self._device = torch.device("cpu")
        self._opened: nn.Module | None = None
        self._digest = ""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_device": torch.device("cpu")}

    def prepare(self, device: torch.device) -> None:
        """Move to `device`."""
        self._device = device

    def reference(self, module: nn.Module) -> nn.Module:
        """The base on the device; of a whole CLIP model the tower that `module` is."""
        from moofusion.weights.sources import open_model

        if self._opened is None:
            with torch.inference_mode(False):
                self._opened, _ = open_model(
                    self._source,
                    role=f"base of task {self.name!r}",
                    allow_pickle=self._allow_pickle,
                    tower=type(module).__name__,
                )
        return self._opened.to(self._device).requires_grad_(False)

    def fingerprint(self, split: str) -> str:
        """Hash of the settings and of the base."""
        if not self._digest:
            self._digest = _digest(self._source, self._allow_pickle)
        return f"{type(self).__name__}:{self.name}:{self._digest}"

    def _pairs(self, module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Tensors of the merge and of the base that are the same parameter."""
        from moofusion.weights.pool import body_prefix

        base = self.reference(module)
        prefix = body_prefix(base)
        theirs = {name.removeprefix(prefix): value for name, value in base.named_parameters()}
        prefix, found = body_prefix(module), 0
        for name, mine in module.named_parameters():
            other = theirs.get(name.removeprefix(prefix))
            if other is not None and other.shape == mine.shape:
                found += 1
                yield mine.detach(), other
        if not found:
            raise PoolError(
                f"task {self.name!r}: {type(base).__name__} and {type(module).__name__} have no "
                "parameter in common; name the base that the experts were fine-tuned from"
            )


def _digest(source: str | Path | nn.Module, allow_pickle: bool) -> str:
    """Hash of the weights, of files as they are."""
    from moofusion.weights.sources import find_folder

    digest = xxhash.xxh3_128()
    if isinstance(source, nn.Module):
        for name, value in sorted(source.state_dict().items()):
            digest.update(name.encode() + tensor_bytes(value.flatten()))
        return str(digest.hexdigest())
    folder = find_folder(source, role="base", allow_pickle=allow_pickle)
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            while block := opened.read(1 << 24):
                digest.update(block)
    return str(digest.hexdigest())


class _WithoutData(_AgainstBase):
    """What tasks share that look at weights alone: every split measures the same."""

    def has_split(self, split: str) -> bool:
        """Whether `split` is a split: weights need no data."""
        return split in SPLITS

    def n_samples(self, split: str) -> int:
        """No sample goes through the model."""
        self.require(split)
        return 0


class BaseDistance(_WithoutData):
    """Distance of the merge from its base: ``||theta - theta_0|| / ||theta_0||``.

    Taken over the parameters that both have, heads that only one has left out. 0 is the base.

    Args:
        name: Name of the task.
        base: Folder, hub id or module of the base.
        head: Module of the pool that is compared.
        allow_pickle: Accept pickled weights, which can run code when read.

    Example:
        >>> base, moved = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        >>> for module, value in ((base, 1.0), (moved, 1.5)):
        ...     _ = nn.init.constant_(module.weight, value)
        >>> BaseDistance("distance", base).evaluate(moved, "search").metrics
        {'distance': 0.5}
    """

    metrics = (Metric("distance", "min"),)

    def evaluate(self, module: nn.Module, split: str) -> Measurement:
        """The relative distance."""
        self.require(split)
        moved, size = 0.0, 0.0
        with torch.inference_mode():
            for mine, base in self._pairs(module):
                moved += float(torch.linalg.vector_norm(mine - base, dtype=torch.float64)) ** 2
                size += float(torch.linalg.vector_norm(base, dtype=torch.float64)) ** 2
        return Measurement({"distance": (moved / size) ** 0.5 if size else moved**0.5}, 0)


class Sparsity(_WithoutData):
    """Share of the parameters in which the merge stays at its base, to be maximized.

    What stays need not be stored: a sparse merge is the base and a small difference. Methods that
    leave entries out (TIES, DARE with `search = ["density"]`) make it large.

    Args:
        name: Name of the task.
        base: Folder, hub id or module of the base.
        tolerance: Changes up to this size count as none.
        head: Module of the pool that is compared.
        allow_pickle: Accept pickled weights, which can run code when read.

    Example:
        >>> base, moved = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)
        >>> _ = moved.load_state_dict(base.state_dict())
        >>> moved.weight.data[0, 0] += 1
        >>> Sparsity("sparsity", base).evaluate(moved, "search").metrics
        {'sparsity': 0.75}
    """

    metrics = (Metric("sparsity", "max", best=1.0, worst=1.0, percent=True),)

    def __init__(
        self, name: str, base: str | Path | nn.Module, *, tolerance: float = 1e-7, **options: Any
    ) -> None:
        if not tolerance >= 0:
            raise ConfigurationError(f"task {name!r}: tolerance must not be negative")
        super().__init__(name, base, **options)
        self.tolerance = tolerance

    def evaluate(self, module: nn.Module, split: str) -> Measurement:
        """The share of unchanged parameters; NaN if a weight is."""
        self.require(split)
        same, total = 0, 0
        with torch.inference_mode():
            for mine, base in self._pairs(module):
                change = (mine - base).abs()
                if bool(change.isnan().any()):
                    return Measurement({"sparsity": float("nan")}, 0)
                same += int((change <= self.tolerance).sum())
                total += change.numel()
        return Measurement({"sparsity": same / total}, 0)

    def fingerprint(self, split: str) -> str:
        """Hash of the settings and of the base."""
        return f"{super().fingerprint(split)}:{self.tolerance}"


class Forgetting(_AgainstBase):
    """What the merge forgot of its base: mean ``KL(base || merge)`` of predictions, in nats.

    Over the windows of a :class:`LanguageModeling` task, per predicted token, or the samples of a
    :class:`ClassificationTask` that the base can serve itself. The base is kept in memory beside
    the merge and runs along, so an evaluation costs two samples for each, and a gradient four.
    Differentiable.

    Args:
        name: Name of the task.
        base: Folder, hub id or module of the base.
        data: Task whose data is used, best some that the base was trained on.
        head: Module of the pool that is compared.
        allow_pickle: Accept pickled weights, which can run code when read.

    Example:
        >>> from moofusion.tasks import TensorClassification
        >>> data = TensorClassification("d", {"search": (torch.eye(2), torch.arange(2))}, classes=2)
        >>> base = nn.Linear(2, 2)
        >>> Forgetting("forgetting", base, data=data).evaluate(base, "search").metrics
        {'kl': 0.0}
    """

    metrics = (Metric("kl", "min"),)

    def __init__(
        self,
        name: str,
        base: str | Path | nn.Module,
        *,
        data: LanguageModeling | ClassificationTask,
        **options: Any,
    ) -> None:
        if not isinstance(data, LanguageModeling | ClassificationTask):
            raise ConfigurationError(
                f"task {name!r}: data must be a LanguageModeling or a ClassificationTask, got "
                f"{type(data).__name__}"
            )
        super().__init__(name, base, **options)
        self._data = data

    def prepare(self, device: torch.device) -> None:
        """Move to `device`."""
        super().prepare(device)
        self._data.prepare(device)

    def has_split(self, split: str) -> bool:
        """Whether the data has `split`."""
        return self._data.has_split(split)

    def n_samples(self, split: str) -> int:
        """Number of samples or windows of `split`."""
        return self._data.n_samples(split)

    def passes(
        self, split: str, indices: NDArray[Any] | None = None, *, gradient: bool = False
    ) -> tuple[int, int]:
        """The base goes forward beside the merge."""
        count = self.n_samples(split) if indices is None else len(indices)
        return (count, count) if gradient else (2 * count, 0)

    def evaluate(self, module: nn.Module, split: str) -> Measurement:
        """Mean divergence over a whole split."""
        size, total, count = self.n_samples(split), 0.0, 0
        with torch.inference_mode():
            for start in range(0, size, self._data.batch_size):
                rows = torch.arange(start, min(start + self._data.batch_size, size))
                found = self._divergence(module, split, rows.to(self._device))
                total += float(found.sum(dtype=torch.float64))
                count += len(found)
        return Measurement({"kl": total / count}, self.passes(split)[0])

    def loss(self, module: nn.Module, split: str, indices: NDArray[Any] | None = None) -> Tensor:
        """Mean divergence over the samples `indices`, with a graph."""
        rows = torch.arange(self.n_samples(split)) if indices is None else torch.as_tensor(indices)
        return self._divergence(module, split, rows.to(self._device)).mean()

    def _divergence(self, module: nn.Module, split: str, rows: Tensor) -> Tensor:
        """KL of every predicted token or sample among these rows."""
        mine = self._scores(module, split, rows)
        with torch.no_grad():
            base = self._scores(self.reference(module), split, rows).log_softmax(-1)
        log = mine.log_softmax(-1)
        return kl_div(log, base, reduction="none", log_target=True).sum(-1)

    def _scores(self, module: nn.Module, split: str, rows: Tensor) -> Tensor:
        """Scores ``(N, C)``."""
        if isinstance(self._data, LanguageModeling):
            data = self._data.data(split)
            scores = token_scores(module, data["ids"][rows])[:, :-1]
            return scores[data["predicted"][rows][:, 1:]]
        inputs, _ = self._data.data(split)
        return self._data.logits(module, {k: v[rows] for k, v in inputs.items()}).float()

    def fingerprint(self, split: str) -> str:
        """Hash of the base and of the data."""
        return f"{super().fingerprint(split)}:{self._data.fingerprint(split)}"
