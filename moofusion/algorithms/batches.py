"""Seeded batches: which samples of which task take part in step t, as a pure function of t."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError

__all__ = ["SeededBatches"]


class SeededBatches:
    """Batches without replacement, reshuffled every epoch, for every task of a problem.

    Step t can be asked for at any time and gives the same samples: nothing is held that an
    interrupted run would have to restore, and no loader replays its first epoch. Ranks of a
    distributed run take turns on one common order, so that theirs are different samples.

    Args:
        sizes: Number of samples of each task.
        batch_size: Samples per task and step; all of them where a task has fewer.
        seed: Seed of the order.
        rank: Number of this process.
        world: Number of processes.

    Example:
        >>> batches = SeededBatches([4, 6], batch_size=2, seed=0)
        >>> [len(rows) for rows in batches(0)]
        [2, 2]
        >>> sorted(np.concatenate([batches(0)[0], batches(1)[0]]).tolist())
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be positive, got {batch_size}")
        self.sizes = tuple(sizes)
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world = rank, world
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    def __call__(self, step: int) -> list[NDArray[np.int64]]:
        """Sample numbers of every task in step `step`, in increasing order."""
        return [self._rows(task, step * self.world + self.rank) for task in range(len(self.sizes))]

    def _rows(self, task: int, turn: int) -> NDArray[np.int64]:
        size = min(self.batch_size, self.sizes[task])
        # Batches that would reach over the end of an epoch wait for the next: none is cut short.
        epoch, place = divmod(turn, self.sizes[task] // size)
        order = self._order(task, epoch)
        return np.sort(order[place * size : (place + 1) * size])

    def _order(self, task: int, epoch: int) -> NDArray[np.int64]:
        if (task, epoch) not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != task}
            rng = np.random.default_rng([self.seed, task, epoch])
            self._orders[task, epoch] = rng.permutation(self.sizes[task])
        return self._orders[task, epoch]
