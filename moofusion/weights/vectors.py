"""Task vectors: the base and the K differences to it, each one flat buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from moofusion.weights.layout import ParameterLayout, Partition

__all__ = ["TaskVectors", "tensor_bytes"]


@dataclass(frozen=True)
class TaskVectors:
    """Base weights and task vectors ``tau_k = theta_k - theta_0`` in one layout.

    Source: Ilharco et al. 2023, Editing models with task arithmetic (arXiv:2212.04089).

    Attributes:
        layout: Places of the tensors.
        names: Names of the K experts.
        base: Base weights theta_0, shape ``(D,)``.
        deltas: Task vectors, shape ``(K, D)``.
        residue: For each expert the positions where ``base + delta`` rounds to something else
            than the expert's own value, and that value; it makes one-hot merges exact.

    Example:
        >>> layout = ParameterLayout({"w": (2,)})
        >>> base = torch.zeros(layout.size)
        >>> expert = base.clone(); expert[:2] = torch.tensor([3.0, 4.0])
        >>> TaskVectors.build(layout, ["a"], base, [expert]).norms()
        array([5.])
    """

    layout: ParameterLayout
    names: tuple[str, ...]
    base: Tensor
    deltas: Tensor
    residue: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def build(
        cls,
        layout: ParameterLayout,
        names: Sequence[str],
        base: Tensor,
        experts: Sequence[Tensor],
    ) -> TaskVectors:
        """Take the differences of flat experts ``(D,)`` to a flat base ``(D,)``."""
        deltas = torch.empty(len(experts), layout.size, dtype=base.dtype, device=base.device)
        residue = [cls.subtract(base, expert, deltas[k]) for k, expert in enumerate(experts)]
        return cls(layout, tuple(names), base, deltas, tuple(residue))

    @staticmethod
    def subtract(base: Tensor, expert: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Write ``expert - base`` to `out`; return the positions and values that rounding lost."""
        torch.sub(expert, base, out=out)
        lost = torch.nonzero(base + out != expert).flatten()
        return lost.to(torch.int32), expert[lost].clone()

    @property
    def n_experts(self) -> int:
        """Number of experts K."""
        return len(self.names)

    def norms(self) -> NDArray[np.float64]:
        """Euclidean norms of the task vectors, shape ``(K,)``."""
        return np.sqrt(np.diag(self._gram()))

    def cosines(self) -> NDArray[np.float64]:
        """Pairwise cosines of the task vectors, shape ``(K, K)``; 0 beside a zero vector."""
        gram = self._gram()
        norms = np.sqrt(np.diag(gram))
        scale = np.outer(norms, norms)
        return np.asarray(np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0))

    def group_norms(self, partition: Partition) -> NDArray[np.float64]:
        """Norms of the task vectors within each group, shape ``(G, K)``."""
        squares = np.zeros((partition.n_groups, self.n_experts))
        for start, stop, group in partition.segments:
            if group >= 0:
                part = self.deltas[:, start:stop].float()
                squares[group] += part.square().sum(dim=1, dtype=torch.float64).cpu().numpy()
        return np.sqrt(squares)

    def _gram(self) -> NDArray[np.float64]:
        gram = torch.zeros(self.n_experts, self.n_experts, dtype=torch.float64)
        step = 1 << 22
        for start in range(0, self.layout.size, step):
            part = self.deltas[:, start : start + step].double()
            gram += (part @ part.T).cpu()
        return gram.numpy()

    def expert(self, index: int) -> Tensor:
        """Flat weights ``(D,)`` of expert `index`, bit for bit."""
        out = self.base + self.deltas[index]
        positions, values = self.residue[index]
        out[positions.long()] = values
        return out

    def fingerprint(self) -> str:
        """Hash of names, layout and every weight: equal fingerprints, equal merges."""
        digest = xxhash.xxh3_128()
        for entry in self.layout.entries:
            digest.update(f"{entry.name}{entry.shape}{entry.offset}".encode())
        digest.update("\0".join(self.names).encode())
        rows = [self.base, *self.deltas, *(v for _, v in self.residue)]
        for row in rows:
            digest.update(tensor_bytes(row))
        return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Contents of a tensor, for hashing."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data
