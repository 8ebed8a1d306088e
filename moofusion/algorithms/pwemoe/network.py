"""The networks inside a router, all at once: small MLPs with an explicit backward pass.

    L[r, :] = W2[r] relu(W1[r] p + b1[r]) + b2[r]          for router r and preference p

A handful of numbers per router, so plain numpy is quicker than any autograd graph, and M
backward passes with different upstream gradients are one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["RouterNetwork"]

Array = NDArray[np.float64]


class RouterNetwork:
    """Shapes of R equal MLPs; their parameters are one flat vector that the caller holds.

    Args:
        n_routers: Number of routers R.
        widths: Widths of the layers, input and output included; ``[K]`` alone is a constant, a
            bias without an input.

    Example:
        >>> RouterNetwork(12, [2, 4, 2]).n_parameters
        264
    """

    def __init__(self, n_routers: int, widths: Sequence[int]) -> None:
        self.n_routers = n_routers
        self.widths = tuple(widths)
        self.shapes: list[tuple[str, tuple[int, ...]]] = []
        pairs = list(pairwise(self.widths))
        for number, (inner, outer) in enumerate(pairs, start=1):
            self.shapes.append((f"W{number}", (n_routers, outer, inner)))
            self.shapes.append((f"b{number}", (n_routers, outer)))
        if not pairs:
            self.shapes.append(("b1", (n_routers, self.widths[-1])))
        self.n_parameters = sum(int(np.prod(shape)) for _, shape in self.shapes)

    def split(self, theta: Array) -> dict[str, Array]:
        """Views of a flat vector by name: ``W1 (R, out, in)``, ``b1 (R, out)``, ``W2``, ..."""
        ends = np.cumsum([int(np.prod(shape)) for _, shape in self.shapes])
        parts = np.split(theta, ends[:-1])
        return {n: p.reshape(s) for (n, s), p in zip(self.shapes, parts, strict=True)}

    def initial(self, bias: Array, *, rng: np.random.Generator, zero_last: bool) -> Array:
        """Weights from N(0, 0.01^2), biases zero, the last bias `bias` ``(K,)``."""
        theta = np.zeros(self.n_parameters)
        parts = self.split(theta)
        last = f"W{len(self.widths) - 1}"
        for name, part in parts.items():
            if name[0] == "W" and not (zero_last and name == last):
                part[:] = rng.normal(0.0, 0.01, part.shape)
        parts[self.shapes[-1][0]][:] = bias
        return theta

    def forward(self, theta: Array, p: Array) -> Array:
        """Coefficients ``(N, R, K)`` for preferences ``(N, M)``."""
        return self._layers(theta, p)[-1]

    def _layers(self, theta: Array, p: Array) -> list[Array]:
        """What enters each layer, and what leaves the last."""
        parts = self.split(theta)
        depth = len(self.widths) - 1
        if depth == 0:
            return [np.broadcast_to(parts["b1"], (len(p), *parts["b1"].shape))]
        values = [np.broadcast_to(p[:, None, :], (len(p), self.n_routers, p.shape[1]))]
        for layer in range(1, depth + 1):
            z = np.einsum("roi,nri->nro", parts[f"W{layer}"], values[-1]) + parts[f"b{layer}"]
            values.append(z if layer == depth else np.maximum(z, 0.0))
        return values

    def pullback(self, theta: Array, p: Array, upstream: Array) -> Array:
        """Gradients of M losses with respect to the parameters.

        Args:
            theta: Parameters, shape ``(P,)``.
            p: One preference, shape ``(M,)``.
            upstream: dLoss/dL of the M losses, shape ``(M, R, K)``.

        Returns:
            Jacobian, shape ``(M, P)``.
        """
        depth = len(self.widths) - 1
        if depth == 0:
            return np.asarray(upstream.reshape(len(upstream), -1))
        parts, values = self.split(theta), self._layers(theta, p[None])
        columns: list[Array] = []
        d = upstream
        for layer in range(depth, 0, -1):
            entering = values[layer - 1][0]
            columns += [d, np.einsum("mro,ri->mroi", d, entering)]
            d = np.einsum("mro,roi->mri", d, parts[f"W{layer}"]) * (entering > 0)
        return np.concatenate([c.reshape(len(upstream), -1) for c in reversed(columns)], axis=1)
