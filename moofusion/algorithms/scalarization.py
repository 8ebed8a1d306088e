"""Scalarization: gradient descent on the coefficients of any space, one preference at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.adam import Adam, cosine
from moofusion.algorithms.batches import SeededBatches
from moofusion.algorithms.gradients import (
    SPLIT,
    affordable_points,
    affordable_steps,
    check_finite,
    check_losses,
    step_cost,
)
from moofusion.algorithms.preferences import preference_grid
from moofusion.algorithms.proposal import ProposalAlgorithm
from moofusion.algorithms.ranks import mean_over_ranks, rank_and_world
from moofusion.algorithms.scalarize import get_scalarizer
from moofusion.algorithms.storage import read_training, write_state
from moofusion.errors import ConfigurationError

__all__ = ["Scalarization"]

Array = NDArray[np.float64]

# Steps of one ray, where neither the user nor a budget of cost units says how many.
_STEPS = 60
_KIND = "scalarization"
# Steps between two writes of the checkpoint.
_EVERY = 50


class Scalarization(ProposalAlgorithm):
    """Descends on one scalarized loss after the other, for a grid of preferences (rays).

    Each ray runs Adam on the decision vector, within the bounds of the space, through the
    gradients of the train split, and proposes where it arrives. The first starts at task
    arithmetic, every other where the closest finished ray ended.

    Args:
        method: ``"ls"``, ``"epo"``, ``"tchebycheff"``, ``"smooth_tchebycheff"``, ``"mgda"``, or
            an aggregator of TorchJD.
        n_rays: Number of preferences; by default 11 for two tasks and 15 for more, or fewer where
            a budget of evaluations, or half of one of cost units, pays for fewer.
        steps: Steps of every ray; by default 60, or under a budget of cost units what it pays
            for. A budget cuts more steps than it can pay.
        lr: Learning rate at the start of every ray.
        batch_size: Samples per task and step.
        checkpoint: File from which an interrupted descent goes on bit for bit; studies and run
            folders give one of their own.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Attributes:
        preferences: The rays, shape ``(N, M)``, in the order of the proposals.
        X: Where the rays ended so far, shape ``(n, n_var)``.
        losses: Losses of every step, shape ``(rays so far, steps, M)``.
        fallbacks: Steps in which the scalarization had no solution and took the preference.

    Raises:
        ConfigurationError: A task without a loss.
        DataError: A task without a train split.

    Example:
        >>> import moofusion
        >>> from pymoo.optimize import minimize
        >>> problem = moofusion.get_problem("vision4", tasks=["mnist", "fashion"])
        >>> algorithm = Scalarization(n_rays=2, steps=2, batch_size=4)
        >>> minimize(problem, algorithm, seed=1).algorithm.X.shape
        (2, 2)
    """

    def __init__(
        self,
        method: str = "ls",
        *,
        n_rays: int | None = None,
        steps: int | None = None,
        lr: float = 2e-2,
        batch_size: int = 16,
        checkpoint: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=1, **kwargs)
        for name, value in (("n_rays", n_rays), ("steps", steps)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be positive, got {value}")
        self.method = method
        self.weigh = get_scalarizer(method)
        self.n_rays, self.steps, self.lr = n_rays, steps, lr
        self.samples = batch_size
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.preferences = self.X = np.empty((0, 0))
        self.losses = np.empty((0, 0, 0))
        self.fallbacks = 0

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        check_losses(type(self).__name__, problem)
        rng = self.random_state
        assert rng is not None
        M = len(problem.tasks)
        usual = affordable_points(self, {1: 1, 2: 11}.get(M, 15))
        rays = self.n_rays or min(usual, self.budget or usual)
        self.preferences = preference_grid(M, rays, rng=rng)
        rays = len(self.preferences)
        # The steps of all rays are paid from one budget.
        default, asked = _STEPS * rays, None if self.steps is None else self.steps * rays
        total = affordable_steps(self, self.samples, rays, asked, default)
        self._steps = max(total // rays, 1)
        self.X = np.empty((0, problem.n_var))
        self.losses = np.empty((0, self._steps, M))
        self._rank, world = rank_and_world()
        self._batches = SeededBatches(
            [task.n_samples(SPLIT) for task in problem.tasks],
            batch_size=self.samples,
            seed=int(rng.integers(2**62)),
            rank=self._rank,
            world=world,
        )
        self._seconds: list[float] = []
        self._settings = {
            "data": problem.fingerprint(SPLIT) if self.checkpoint is not None else "",
            "method": self.method,
            "rays": rays,
            "steps": self._steps,
            "lr": self.lr,
            "batch_size": self.samples,
            "seed": self._batches.seed,
            "world": world,
        }
        self._kept: dict[str, Array] = {}
        if self.checkpoint is not None and self.checkpoint.exists():
            self._kept, description = read_training(self.checkpoint, _KIND, self._settings)
            self.fallbacks = int(description["fallbacks"])

    def _batch(self, size: int) -> Array:
        ray, finished = len(self.X), len(self._kept.get("X", ()))
        if ray < finished:
            x, losses = self._kept["X"][ray], self._kept["losses"][ray]
            self._tell(ray, self._steps)
        else:
            x, losses = self._descend(ray)
        self.X = np.vstack([self.X, x])
        self.losses = np.concatenate([self.losses, losses[None]])
        if ray >= finished:
            self._save()
        return np.asarray(x[None])

    def _start(self, ray: int) -> Array:
        space = self.problem.space
        if ray == 0:
            return np.asarray(space.uniform(space.static[None])[0])
        distances = np.linalg.norm(self.preferences[:ray] - self.preferences[ray], axis=1)
        return np.asarray(self.X[int(distances.argmin())])

    def _begin(self, ray: int) -> tuple[Array, Adam, list[Array]]:
        """Place, optimizer and losses at the start of a ray, or where it was interrupted."""
        kept = self._kept
        if kept and ray == len(kept["X"]) and len(kept["part"]):
            self._tell(ray, len(kept["part"]))
            adam = Adam(
                lr=self.lr, count=len(kept["part"]), mean=kept["mean"], square=kept["square"]
            )
            return kept["x"], adam, list(kept["part"])
        self._seconds.append(0.0)
        return self._start(ray), Adam(lr=self.lr), []

    def _descend(self, ray: int) -> tuple[Array, Array]:
        """Where a ray ends, and the losses of its steps."""
        r, problem = self.preferences[ray], self.problem
        x, adam, history = self._begin(ray)
        for step in range(len(history), self._steps):
            started = time.perf_counter()
            number = ray * self._steps + step
            losses, J = problem.losses_and_grads(x, split=SPLIT, indices=self._batches(number))
            losses, J = mean_over_ranks(losses, J)
            check_finite(problem, losses, J, step)
            weights = self.weigh(losses, J @ J.T, r)
            moved = adam.step(x, weights.alpha @ J, factor=cosine(step, self._steps))
            x = np.clip(moved, problem.xl, problem.xu)
            self.fallbacks += weights.fallback
            history.append(losses)
            self._seconds[ray] += time.perf_counter() - started
            if (step + 1) % _EVERY == 0 and step + 1 < self._steps:
                self._save(x, adam, history)
        return x, np.array(history)

    # ------------------------------------------------------------------ checkpoint

    def _tell(self, ray: int, steps: int) -> None:
        """Tell those who count what steps cost that were taken before an interruption."""
        self._seconds.append(float(self._kept["seconds"][ray]))
        for observer in self.problem.gradient_observers:
            observer(steps * step_cost(self.problem, self.samples), self._seconds[ray])

    def _save(
        self, x: Array | None = None, adam: Adam | None = None, part: Sequence[Array] = ()
    ) -> None:
        """Write the finished rays, and the state of one that is on its way."""
        if self.checkpoint is None or self._rank != 0:
            return
        none = np.zeros(0)
        arrays = {
            "X": self.X,
            "losses": self.losses,
            "seconds": np.array(self._seconds),
            "part": np.array(part).reshape(len(part), self.losses.shape[2]),
            "x": none if x is None else x,
            "mean": none if adam is None else adam.mean,
            "square": none if adam is None else adam.square,
        }
        description = {"kind": _KIND, "settings": self._settings, "fallbacks": self.fallbacks}
        write_state(self.checkpoint, arrays, description)

    def _exhausted(self) -> bool:
        return len(self.X) >= len(self.preferences)
