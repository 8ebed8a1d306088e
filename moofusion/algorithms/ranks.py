"""Several processes: who this one is, and means over all of them (torch.distributed)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["mean_over_ranks", "rank_and_world"]

Array = NDArray[np.float64]


def rank_and_world() -> tuple[int, int]:
    """Number of this process and of all; (0, 1) unless torch.distributed (accelerate) runs."""
    distributed = _running()
    if distributed is None:
        return 0, 1
    return int(distributed.get_rank()), int(distributed.get_world_size())


def mean_over_ranks(*arrays: Array) -> list[Array]:
    """Elementwise means of arrays over the processes, in one message."""
    distributed = _running()
    if distributed is None:
        return list(arrays)
    import torch

    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    flat = torch.as_tensor(np.concatenate([a.ravel() for a in arrays]), device=device)
    distributed.all_reduce(flat)
    whole = (flat / distributed.get_world_size()).cpu().numpy()
    ends = np.cumsum([a.size for a in arrays])[:-1]
    return [p.reshape(a.shape) for p, a in zip(np.split(whole, ends), arrays, strict=True)]


def _running() -> Any:
    """``torch.distributed`` if a process group has been made, else None."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed
