"""Task vectors of the tiny net from plain arrays, for the tests of merge methods."""

from __future__ import annotations

import tiny
import torch

from moofusion.weights import ParameterLayout, TaskVectors

LAYOUT = ParameterLayout({name: tuple(p.shape) for name, p in tiny.net().named_parameters()})


def make(rows, layout=LAYOUT, dtype=torch.float32):
    """Task vectors from deltas ``(K, parameters)`` without padding, on a base of zeros."""
    K, start = len(rows), 0
    flat = torch.zeros(K, layout.size)
    for entry in layout.entries:
        flat[:, entry.slice] = rows[:, start : start + entry.size]
        start += entry.size
    none = ((torch.empty(0, dtype=torch.int32), torch.empty(0)),) * K
    return TaskVectors(
        layout, tuple("abcdefgh"[:K]), torch.zeros(layout.size), flat.to(dtype), none
    )


def used(flat, layout=LAYOUT):
    """The entries that are parameters, padding left out."""
    return torch.cat([flat[..., e.slice] for e in layout.entries], dim=-1)


def random_rows(K=4, seed=3, layout=LAYOUT):
    return torch.randn(K, layout.n_parameters, generator=torch.Generator().manual_seed(seed))
