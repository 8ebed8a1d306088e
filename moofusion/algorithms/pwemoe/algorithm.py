"""PWEMoE as a pymoo algorithm: train routers by gradients, then propose L(r) for a grid of r."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.gradients import (
    affordable_points,
    affordable_steps,
    check_losses,
    clipped_decision,
)
from moofusion.algorithms.preferences import default_points, preference_grid
from moofusion.algorithms.proposal import ProposalAlgorithm
from moofusion.algorithms.pwemoe.router import ParetoRouter
from moofusion.algorithms.pwemoe.training import RouterTraining
from moofusion.algorithms.scalarize import get_scalarizer
from moofusion.errors import ConfigurationError

__all__ = ["PWEMoE"]

Array = NDArray[np.float64]

# Steps where neither the user nor a budget of cost units says how many.
_STEPS = 1000


class PWEMoE(ProposalAlgorithm):
    """Pareto set learning with weight-ensembling routers: the whole front from one training.

    The first proposal is preceded by the training (see :class:`RouterTraining`); its gradients
    are charged to the problem's `gradient_observers`. Then the routers' coefficients for a grid of
    preferences are evaluated like any other candidates.

    Args:
        scalarization: ``"ls"``, ``"epo"``, ``"tchebycheff"``, ``"smooth_tchebycheff"``,
            ``"mgda"``, or an aggregator of TorchJD.
        routed: ``"mlp"``, ``"mlp+attention"`` or ``"all"`` (see :func:`route`).
        hidden_layers: 0 or 1 (or more) hidden layers in every router.
        conditioned: False learns one constant L on random preferences instead, the control that
            tells the gain of conditioning from that of labelled data. It proposes a single point.
        zero_init: Start exactly at task arithmetic.
        steps: Training steps; by default 1000, or under a budget of cost units what it pays for
            (up to 4000) beside the evaluations. A budget cuts more steps than it can pay.
        lr: Learning rate at the start.
        weight_decay: Decoupled decay of the routers' parameters: AdamW, with which the source
            trains on GPT-2; 0 is Adam.
        batch_size: Samples per task and step.
        concentration: Of the Dirichlet distribution of preferences.
        n_points: Size of the preference grid; by default the budget of evaluations, else 11
            points for two tasks and 66 for more, of which at most half of a budget of cost units
            goes into measuring.
        proposals: Candidates per iteration.
        checkpoint: File from which an interrupted training goes on; studies and run folders give
            one of their own.
        progress: Show a bar with the losses of the tasks.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Attributes:
        router: The trained :class:`ParetoRouter` (of ``result.algorithm``).
        training: The :class:`RouterTraining`, with the history of the losses.
        preferences: Preferences behind the proposals, shape ``(N, M)``, in their order.
        X: The proposals, shape ``(N, n_var)``.
        clipped: Which proposals the bounds of the space changed, shape ``(N,)``.

    Raises:
        ConfigurationError: A task without a loss, or a space that is too coarse.
        DataError: A task without a train split.

    Source: Tang et al. 2024 (arXiv:2406.09770); Mahapatra and Rajan 2020 for ``"epo"``.

    Example:
        >>> import moofusion
        >>> from pymoo.optimize import minimize
        >>> problem = moofusion.get_problem("vision4", tasks=["mnist", "fashion"],
        ...                                 space="module-wise")
        >>> algorithm = PWEMoE(steps=2, batch_size=4, n_points=2)
        >>> result = minimize(problem, algorithm, seed=1)
        >>> result.algorithm.router.n_parameters
        88
    """

    def __init__(
        self,
        *,
        scalarization: str = "ls",
        routed: str = "mlp",
        hidden_layers: int = 1,
        conditioned: bool = True,
        zero_init: bool = False,
        steps: int | None = None,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        batch_size: int = 16,
        concentration: float = 1.0,
        n_points: int | None = None,
        proposals: int = 20,
        checkpoint: str | Path | None = None,
        progress: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=proposals, **kwargs)
        get_scalarizer(scalarization)
        if steps is not None and steps < 0:
            raise ConfigurationError(f"steps must be 0 or more, got {steps}")
        if n_points is not None and n_points < 1:
            raise ConfigurationError(f"n_points must be positive, got {n_points}")
        self.steps, self.n_points = steps, n_points
        self._router_options: dict[str, Any] = {
            "routed": routed,
            "hidden_layers": hidden_layers,
            "conditioned": conditioned,
            "zero_init": zero_init,
        }
        self._training_options: dict[str, Any] = {
            "scalarization": scalarization,
            "lr": lr,
            "weight_decay": weight_decay,
            "batch_size": batch_size,
            "concentration": concentration,
            "progress": progress,
        }
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.router: ParetoRouter | None = None
        self.training: RouterTraining | None = None
        self.preferences = self.X = np.empty((0, 0))
        self.clipped = np.empty(0, bool)
        self._used = 0

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        check_losses(type(self).__name__, problem)
        rng = self.random_state
        assert rng is not None
        M = len(problem.tasks)
        self.router = ParetoRouter(problem, **self._router_options, rng=rng)
        usual = self.budget or affordable_points(self, default_points(M))
        points = self.n_points or usual
        if self.router.conditioned:
            self.preferences = preference_grid(M, points, rng=rng)
        else:
            self.preferences = np.full((1, M), 1 / M)
        self.training = RouterTraining(
            problem,
            self.router,
            steps=affordable_steps(
                self,
                self._training_options["batch_size"],
                len(self.preferences),
                self.steps,
                _STEPS,
            ),
            seed=int(rng.integers(2**62)),
            checkpoint=self.checkpoint,
            **self._training_options,
        )

    def _batch(self, size: int) -> Array:
        assert self.training is not None
        if self._used == 0:
            router = self.training.run()
            L = router.batch(self.preferences)
            self.X, self.clipped = clipped_decision("PWEMoE", self.problem, L)
        rows = self.X[self._used : self._used + size]
        self._used += len(rows)
        return rows

    def _exhausted(self) -> bool:
        return self._used >= len(self.preferences)
