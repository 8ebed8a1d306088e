"""Training a router: one merge and M backward passes per step, resumed exactly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.adam import Adam, cosine
from moofusion.algorithms.batches import SeededBatches
from moofusion.algorithms.gradients import SPLIT, check_finite, check_losses, step_cost
from moofusion.algorithms.pwemoe.router import ParetoRouter
from moofusion.algorithms.ranks import mean_over_ranks, rank_and_world
from moofusion.algorithms.scalarize import get_scalarizer
from moofusion.algorithms.storage import read_training, write_state
from moofusion.errors import ConfigurationError

if TYPE_CHECKING:
    from moofusion.problems import MergeProblem

__all__ = ["RouterTraining"]

Array = NDArray[np.float64]

_KIND = "router-training"
# Steps between two writes of the checkpoint.
_EVERY = 50


class RouterTraining:
    """Adam on the parameters of a router, on a random preference in every step.

    A step draws ``r ~ Dirichlet(concentration)`` and one batch of every task, merges once with
    ``L(r)``, takes the M losses and their gradients with respect to L, carries them through the
    router, and weighs them by the scalarization. No autograd graph holds the experts, and the
    optimizer holds three numbers for each router parameter.

    Preferences and batches are functions of the seed and the number of the step, so a run that is
    resumed from its checkpoint goes on bit for bit as it would have. With torch.distributed
    (accelerate) all ranks share the preference, take different samples, and average the gradients
    of the coefficients: their routers stay equal.

    Args:
        problem: What the router was made for; every task needs a loss and a train split.
        router: Trained in place.
        scalarization: See :func:`moofusion.algorithms.scalarize.get_scalarizer`.
        steps: Number of steps.
        lr: Learning rate at the start; it falls along a cosine to a tenth.
        weight_decay: Decoupled decay of the router's parameters (AdamW); 0 is Adam.
        batch_size: Samples per task and step, on every rank.
        concentration: Of the Dirichlet distribution; 1 is uniform on the simplex.
        seed: Of preferences and batches.
        checkpoint: File to go on from, if it is there, and to write.
        progress: Show a bar with the M losses.

    Attributes:
        fallbacks: Steps in which the scalarization had no solution and took the preference.
        seconds: Wall-clock seconds of all steps so far, also of those before an interruption.

    Example:
        >>> from moofusion.algorithms import ParetoRouter
        >>> from moofusion.testing import toy_problem
        >>> problem = toy_problem(space="module-wise")
        >>> router = ParetoRouter(problem, rng=np.random.default_rng(0), routed="all")
        >>> training = RouterTraining(problem, router, steps=3)
        >>> training.run() is router
        True
    """

    def __init__(
        self,
        problem: MergeProblem,
        router: ParetoRouter,
        *,
        scalarization: str = "ls",
        steps: int,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        batch_size: int = 16,
        concentration: float = 1.0,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> None:
        check_losses("PWEMoE", problem)
        if not (np.isfinite(concentration) and concentration > 0):
            raise ConfigurationError(f"concentration must be positive, got {concentration}")
        self.problem, self.router = problem, router
        self.weigh = get_scalarizer(scalarization)
        self.steps, self.concentration, self.seed = steps, concentration, seed
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.progress = progress
        self.adam = Adam(lr=lr, weight_decay=weight_decay)
        self.rank, world = rank_and_world()
        self.batches = SeededBatches(
            [task.n_samples(SPLIT) for task in problem.tasks],
            batch_size=batch_size,
            seed=seed,
            rank=self.rank,
            world=world,
        )
        self._history: list[tuple[Array, Array]] = []
        self.fallbacks, self.seconds = 0, 0.0
        self._restored = 0
        self._settings = {
            "made_for": router.made_for,
            "data": problem.fingerprint(SPLIT) if checkpoint is not None else "",
            "router": [router.routed, router.hidden_layers, router.conditioned, router.zero_init],
            "scalarization": scalarization,
            "steps": steps,
            "lr": lr,
            "weight_decay": weight_decay,
            "batch_size": batch_size,
            "concentration": concentration,
            "seed": seed,
            "world": world,
        }
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume(self.checkpoint)

    @property
    def done(self) -> int:
        """Steps taken so far."""
        return len(self._history)

    @property
    def losses(self) -> Array:
        """Loss of every task in every step so far, shape ``(T, M)``."""
        return np.array([losses for losses, _ in self._history]).reshape(self.done, -1)

    @property
    def preferences(self) -> Array:
        """Preference of every step so far, shape ``(T, M)``."""
        return np.array([r for _, r in self._history]).reshape(self.done, -1)

    def run(self) -> ParetoRouter:
        """Take all steps that are left; returns the router.

        What a checkpoint holds is told to the problem's `gradient_observers` first, in one sum:
        it was paid for this training, though not by this process.
        """
        if self._restored:
            cost = self._restored * step_cost(self.problem, self.batches.batch_size)
            for observer in self.problem.gradient_observers:
                observer(cost, self.seconds)
            self._restored = 0
        with self._bar() as show:
            while self.done < self.steps:
                self.step()
                show()
                if self.done % _EVERY == 0 or self.done == self.steps:
                    self._save()
        return self.router

    def step(self) -> None:
        """Take one step."""
        number, router, started = self.done, self.router, time.perf_counter()
        r = self.preference(number)
        L = router.batch(r[None])[0]
        # Rows of a group-wise space are its variables: unclipped, since routers know no bounds.
        losses, gradients = self.problem.losses_and_grads(
            L.ravel(), split=SPLIT, indices=self.batches(number), groups=router.rows >= 0
        )
        losses, gradients = mean_over_ranks(losses, gradients)
        check_finite(self.problem, losses, gradients, number)
        J = router.pullback(r, gradients.reshape(len(losses), *L.shape))
        weights = self.weigh(losses, J @ J.T, r)
        factor = cosine(number, self.steps)
        router.theta = self.adam.step(router.theta, weights.alpha @ J, factor=factor)
        self.fallbacks += weights.fallback
        self._history.append((losses, r))
        self.seconds += time.perf_counter() - started

    def preference(self, step: int) -> Array:
        """Preference of a step, the same on every rank."""
        rng = np.random.default_rng([self.seed, 2**32 - 1, step])
        return rng.dirichlet(np.full(len(self.router.tasks), self.concentration))

    # ------------------------------------------------------------------ checkpoint and progress

    def _save(self) -> None:
        if self.checkpoint is None or self.rank != 0:
            return
        arrays = {
            "theta": self.router.theta,
            "mean": self.adam.mean,
            "square": self.adam.square,
            "losses": self.losses,
            "preferences": self.preferences,
        }
        description = {
            "kind": _KIND,
            "settings": self._settings,
            "fallbacks": self.fallbacks,
            "seconds": self.seconds,
        }
        write_state(self.checkpoint, arrays, description)

    def _resume(self, path: Path) -> None:
        arrays, description = read_training(path, _KIND, self._settings)
        self.router.theta = arrays["theta"]
        self._history = list(zip(arrays["losses"], arrays["preferences"], strict=True))
        self.adam.mean, self.adam.square = arrays["mean"], arrays["square"]
        self.adam.count = self.done
        self.fallbacks = int(description["fallbacks"])
        self.seconds = float(description["seconds"])
        self._restored = self.done

    @contextmanager
    def _bar(self) -> Iterator[Any]:
        if not self.progress or self.rank != 0:
            yield lambda: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Left

        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn())
        note = TextColumn("{task.fields[note]}")
        with Progress(*columns, note, Left(), console=Console(stderr=True)) as bars:
            bar = bars.add_task("training", total=self.steps, completed=self.done, note="")

            def show() -> None:
                recent = np.mean([losses for losses, _ in self._history[-20:]], axis=0)
                last = zip(self.router.tasks, recent, strict=True)
                note = " ".join(f"{task} {loss:.3f}" for task, loss in last)
                bars.update(bar, completed=self.done, note=note)

            yield show
