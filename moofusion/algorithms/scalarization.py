"""Scalarization: gradient descent on the coefficients of any space, one preference at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.adam import Adam, cosine
from moofusion.algorithms.batches import SeededBatches
from moofusion.algorithms.gradients import SPLIT, affordable_steps, check_finite, check_losses
from moofusion.algorithms.preferences import preference_grid
from moofusion.algorithms.proposal import ProposalAlgorithm
from moofusion.algorithms.ranks import mean_over_ranks, rank_and_world
from moofusion.algorithms.scalarize import get_scalarizer
from moofusion.errors import ConfigurationError

__all__ = ["Scalarization"]

Array = NDArray[np.float64]

# Steps of one ray, where neither the user nor a budget of cost units says how many.
_STEPS = 60


class Scalarization(ProposalAlgorithm):
    """Descends on one scalarized loss after the other, for a grid of preferences (rays).

    Each ray runs Adam on the decision vector, within the bounds of the space, through the
    gradients of the train split, and proposes where it arrives. The first starts at task
    arithmetic, every other where the closest finished ray ended.

    Args:
        method: ``"ls"``, ``"epo"``, ``"tchebycheff"``, ``"smooth_tchebycheff"``, ``"mgda"``, or
            an aggregator of TorchJD.
        n_rays: Number of preferences; by default 11 for two tasks and 15 for more, or the budget
            of evaluations where that is smaller.
        steps: Steps of every ray; by default 60, or under a budget of cost units what it pays
            for. A budget cuts more steps than it can pay.
        lr: Learning rate at the start of every ray.
        batch_size: Samples per task and step.
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
        self.preferences = self.X = np.empty((0, 0))
        self.losses = np.empty((0, 0, 0))
        self.fallbacks = 0

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        check_losses(type(self).__name__, problem)
        rng = self.random_state
        assert rng is not None
        M = len(problem.tasks)
        usual = {1: 1, 2: 11}.get(M, 15)
        rays = self.n_rays or min(usual, self.budget or usual)
        self.preferences = preference_grid(M, rays, rng=rng)
        rays = len(self.preferences)
        # The steps of all rays are paid from one budget.
        default, asked = _STEPS * rays, None if self.steps is None else self.steps * rays
        total = affordable_steps(self, self.samples, rays, asked, default)
        self._steps = max(total // rays, 1)
        self.X = np.empty((0, problem.n_var))
        self.losses = np.empty((0, self._steps, M))
        rank, world = rank_and_world()
        self._batches = SeededBatches(
            [task.n_samples(SPLIT) for task in problem.tasks],
            batch_size=self.samples,
            seed=int(rng.integers(2**62)),
            rank=rank,
            world=world,
        )

    def _batch(self, size: int) -> Array:
        ray = len(self.X)
        x = self._descend(ray, self._start(ray))
        self.X = np.vstack([self.X, x])
        return x[None]

    def _start(self, ray: int) -> Array:
        space = self.problem.space
        if ray == 0:
            return np.asarray(space.uniform(space.static[None])[0])
        distances = np.linalg.norm(self.preferences[:ray] - self.preferences[ray], axis=1)
        return np.asarray(self.X[int(distances.argmin())])

    def _descend(self, ray: int, x: Array) -> Array:
        r, problem = self.preferences[ray], self.problem
        adam, history = Adam(lr=self.lr), []
        for step in range(self._steps):
            number = ray * self._steps + step
            losses, J = problem.losses_and_grads(x, split=SPLIT, indices=self._batches(number))
            losses, J = mean_over_ranks(losses, J)
            check_finite(problem, losses, J, step)
            weights = self.weigh(losses, J @ J.T, r)
            moved = adam.step(x, weights.alpha @ J, factor=cosine(step, self._steps))
            x = np.clip(moved, problem.xl, problem.xu)
            self.fallbacks += weights.fallback
            history.append(losses)
        self.losses = np.concatenate([self.losses, np.array(history)[None]])
        return x

    def _exhausted(self) -> bool:
        return len(self.X) >= len(self.preferences)
