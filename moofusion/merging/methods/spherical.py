"""Spherical interpolation: SLERP between two experts, the spherical mean of more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moofusion.merging.linear import restore_experts
from moofusion.merging.methods.base import Merge, MergeMethod, Statistics, check_choice, shares
from moofusion.merging.methods.ranges import Choice
from moofusion.weights.layout import Partition
from moofusion.weights.vectors import TaskVectors

__all__ = ["Slerp"]

Array = NDArray[np.float64]
_CHOICES = ("weights", "task-vectors")
_NORMS = ("interpolated", "own")
_ROUNDS = 100
# mergekit's DOT_THRESHOLD and eps.
_PARALLEL, _ZERO = 0.9995, 1e-8


@dataclass(frozen=True)
class Slerp(MergeMethod):
    """Spherical linear interpolation (Shoemake 1985), of any number of experts.

    For every tensor the experts are points on a sphere; with weights ``w = L / sum(L)`` the merge
    has the direction of their weighted Karcher mean, the u that minimizes
    ``sum_k w_k angle(u, v_k)^2`` (Buss & Fillmore 2001; for two experts the great circle,
    ``sin((1 - t) phi) v_1 + sin(t phi) v_2`` over ``sin(phi)``), and the norm
    ``sum_k w_k |v_k|``. mergekit's ``karcher`` scales likewise. Its ``slerp`` is ``norms="own"``
    here: the factors of the directions are applied to the tensors as they are, so that norms add up
    as they come, and tensors whose cosine is beyond 0.9995 are joined by a line.

    Not linear in the coefficients and without gradient. Biases, norms and embeddings are tensors
    like all others; one in which an expert is all zero is averaged. One-hot coefficients give that
    expert bit for bit; a row of zeros means equal weights.

    Args:
        of: The points: the ``"weights"`` themselves, without the base, or the ``"task-vectors"``,
            which are then added to the base.
        norms: ``"interpolated"``, or ``"own"`` as in mergekit 0.1.5 (mergekit/merge_methods/
            slerp.py), which has it for two models.

    Example:
        >>> from moofusion.weights import ParameterLayout
        >>> layout = ParameterLayout({"w": (2,)})
        >>> base, a, b = (torch.zeros(layout.size) for _ in range(3))
        >>> a[0] = b[1] = 1.0
        >>> vectors = TaskVectors.build(layout, ["a", "b"], base, [a, b])
        >>> merge = Slerp().bind(vectors, layout.partition("model"), static=np.ones(2))
        >>> merge(np.array([[0.5, 0.5]]), out=torch.empty(layout.size))[:2]
        tensor([0.7071, 0.7071])
    """

    name: ClassVar[str] = "slerp"
    title: ClassVar[str] = "spherical interpolation"
    paper: ClassVar[str] = "Shoemake 1985; Buss & Fillmore 2001"
    searchable: ClassVar = {"of": Choice(_CHOICES), "norms": Choice(_NORMS)}

    of: str = "weights"
    norms: str = "interpolated"

    def __post_init__(self) -> None:
        check_choice("of", self.of, _CHOICES)
        check_choice("norms", self.norms, _NORMS)

    def factors(self, gram: Array, weights: Array) -> Array:
        """Factors ``(K,)`` of the points, from their products ``(K, K)`` and weights ``(K,)``."""
        if self.norms == "interpolated":
            return spherical_mean(gram, weights)
        norms = np.sqrt(np.diag(gram))
        norms[norms <= _ZERO] = 1.0
        cosines = np.clip(gram / np.outer(norms, norms), -1, 1)
        np.fill_diagonal(cosines, 1)
        if np.abs(cosines).min() > _PARALLEL:
            return weights
        return spherical_mean(cosines, weights)

    def bind(
        self,
        vectors: TaskVectors,
        partition: Partition,
        *,
        static: Array,
        statistics: Statistics | None = None,
    ) -> Merge:
        """The spherical mean of these experts."""
        return _SphericalMerge(self, vectors, partition, static=static)


class _SphericalMerge:
    """The mean lies in the span of the experts, so all it takes is their products, once."""

    def __init__(
        self, method: Slerp, vectors: TaskVectors, partition: Partition, *, static: Array
    ) -> None:
        self.method, self.vectors, self.partition = method, vectors, partition
        self.whole = method.of == "weights"
        self.static = shares(static[None], Slerp.name)
        self._grams = []
        for entry in vectors.layout.entries:
            rows = vectors.deltas[:, entry.slice].double()
            if self.whole:
                rows += vectors.base[entry.slice].double()
            self._grams.append((rows @ rows.T).cpu().numpy())

    def __call__(self, coefficients: Array, *, out: Tensor) -> Tensor:
        weights = np.vstack([shares(coefficients, Slerp.name), self.static])
        base, deltas = self.vectors.base, self.vectors.deltas
        out.zero_()
        for entry, group, gram in zip(
            self.vectors.layout.entries, self.partition.groups, self._grams, strict=True
        ):
            factors = self.method.factors(gram, weights[group])
            row = torch.as_tensor(factors, dtype=base.dtype, device=base.device)
            part = entry.slice
            torch.addmv(
                base[part],
                deltas[:, part].T.to(base.dtype),
                row,
                beta=float(factors.sum()) if self.whole else 1.0,
                out=out[part],
            )
        restore_experts(self.vectors, self.partition, weights, out)
        return out


def spherical_mean(gram: Array, weights: Array) -> Array:
    """Weighted mean on the sphere of vectors known by their products.

    Args:
        gram: Products ``v_i . v_j``, shape ``(K, K)``.
        weights: Non-negative, summing to one, shape ``(K,)``.

    Returns:
        Factors ``(K,)`` such that ``sum_k factors[k] v_k`` is the mean: its direction by gradient
        descent on the sphere (steps of length 1, which is exact for two vectors), its norm the
        weighted mean of the norms. Where a vector is 0 or all cancel, the weights themselves.
    """
    norms = np.sqrt(np.diag(gram))
    if norms.min() == 0:
        return weights
    cosines = np.clip(gram / np.outer(norms, norms), -1, 1)
    np.fill_diagonal(cosines, 1)
    length = np.sqrt(max(weights @ cosines @ weights, 0.0))
    if length < 1e-6:
        return weights
    at = weights / length
    for _ in range(_ROUNDS):
        to_each = np.clip(cosines @ at, -1, 1)
        angles = np.arccos(to_each)
        # Towards a point: angle / sin(angle), which is 1 where it has been reached; which way the
        # opposite point lies is undefined, so it does not pull.
        ratio = np.divide(angles, np.sin(angles), out=np.ones_like(angles), where=angles > 1e-12)
        pull = np.where(np.pi - angles < 1e-6, 0.0, weights * ratio)
        step = pull - (pull @ to_each) * at
        length = np.sqrt(max(step @ cosines @ step, 0.0))
        if length < 1e-12:
            break
        at = np.cos(length) * at + np.sin(length) * step / length
        at /= np.sqrt(at @ cosines @ at)
    return np.asarray(at * (weights @ norms) / norms)
