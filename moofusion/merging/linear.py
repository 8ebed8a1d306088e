"""The linear merge and its gradient: one pass over the weights each.

    theta[g] = theta_0[g] + sum_k L[g, k] * tau_k[g]
    dLoss/dL[g, k] = <dLoss/dtheta[g], tau_k[g]>

Both are matrix-vector products on contiguous memory, so they run at the speed of memory: a merge
reads (K + 1) D numbers and writes D.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moofusion.weights.layout import STATIC, Partition
from moofusion.weights.vectors import TaskVectors

__all__ = ["LinearMerge", "restore_experts"]

# Deltas in half precision are widened piece by piece; a piece stays in the cache.
_PIECE = 1 << 18


class LinearMerge:
    """Merged weights as a linear function of the coefficients.

    Args:
        vectors: Base and task vectors.
        partition: Groups of the flat buffer, one row of coefficients each.
        static: Coefficients of what no group covers, shape ``(K,)``.

    Example:
        >>> from moofusion.weights import ParameterLayout
        >>> layout = ParameterLayout({"w": (2,)})
        >>> zero, one = torch.zeros(layout.size), torch.ones(layout.size)
        >>> vectors = TaskVectors.build(layout, ["a", "b"], zero, [one, 3 * one])
        >>> merge = LinearMerge(vectors, layout.partition("model"), static=np.zeros(2))
        >>> merge(np.array([[0.5, 0.5]]), out=torch.empty(layout.size))[:2]
        tensor([2., 2.])
    """

    def __init__(
        self, vectors: TaskVectors, partition: Partition, *, static: NDArray[np.float64]
    ) -> None:
        self.vectors = vectors
        self.partition = partition
        self.static = static

    def __call__(self, coefficients: NDArray[np.float64], *, out: Tensor) -> Tensor:
        """Write the merged weights to `out`.

        A row that is exactly one-hot gives that expert bit for bit, a row of zeros the base.

        Args:
            coefficients: L, shape ``(G, K)``.
            out: Flat buffer ``(D,)`` on the device of the task vectors.

        Returns:
            `out`.
        """
        base, deltas = self.vectors.base, self.vectors.deltas
        rows = torch.as_tensor(np.vstack([coefficients, self.static]), dtype=base.dtype)
        rows = rows.to(base.device)
        with torch.no_grad():
            for start, stop, group in self.partition.segments:
                if deltas.dtype == base.dtype:
                    part = slice(start, stop)
                    torch.addmv(base[part], deltas[:, part].T, rows[group], out=out[part])
                else:
                    for a in range(start, stop, _PIECE):
                        part = slice(a, min(a + _PIECE, stop))
                        wide = deltas[:, part].to(base.dtype)
                        torch.addmv(base[part], wide.T, rows[group], out=out[part])
            restore_experts(
                self.vectors, self.partition, np.vstack([coefficients, self.static]), out
            )
        return out

    def gradient(
        self,
        flat_gradient: Tensor,
        coefficients: NDArray[np.float64] | None = None,
        *,
        groups: Partition | None = None,
    ) -> NDArray[np.float64]:
        """Gradient of the loss with respect to the coefficients.

        Args:
            flat_gradient: dLoss/dtheta, shape ``(D,)``.
            coefficients: L at which it was taken; where the merge is linear it does not matter.
            groups: What :meth:`Partition.only` left of the partition, where not all is wanted.

        Returns:
            dLoss/dL, shape ``(G, K)``; zero in the groups that were not wanted.
        """
        deltas = self.vectors.deltas
        result = torch.zeros(
            self.partition.n_groups,
            self.vectors.n_experts,
            dtype=flat_gradient.dtype,
            device=flat_gradient.device,
        )
        for start, stop, group in (groups or self.partition).segments:
            if group == STATIC:
                continue
            if deltas.dtype == flat_gradient.dtype:
                result[group] += deltas[:, start:stop] @ flat_gradient[start:stop]
            else:
                for a in range(start, stop, _PIECE):
                    part = slice(a, min(a + _PIECE, stop))
                    result[group] += deltas[:, part].to(flat_gradient.dtype) @ flat_gradient[part]
        return result.double().cpu().numpy()


def restore_experts(
    vectors: TaskVectors, partition: Partition, rows: NDArray[np.float64], out: Tensor
) -> None:
    """Make one-hot groups of `out` that expert bit for bit: undo the rounding of its task vector.

    Args:
        vectors: Base and task vectors.
        partition: Groups of the flat buffer.
        rows: Coefficients ``(G + 1, K)``, those of the static part last.
        out: Merged weights ``(D,)``, changed in place.
    """
    one_hot = (np.count_nonzero(rows, axis=1) == 1) & (rows.max(axis=1) == 1.0)
    for start, stop, group in partition.segments:
        if one_hot[group]:
            positions, values = vectors.residue[int(rows[group].argmax())]
            a, b = np.searchsorted(positions.cpu().numpy(), [start, stop])
            out[positions[a:b].long()] = values[a:b]
