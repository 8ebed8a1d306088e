"""Gradient methods and their controls by name."""

from __future__ import annotations

from typing import Any

from pymoo.core.algorithm import Algorithm

from moofusion.algorithms.checkpoints import TrainedCheckpoints
from moofusion.algorithms.entry import AlgorithmEntry
from moofusion.algorithms.pwemoe import PWEMoE
from moofusion.algorithms.scalarization import Scalarization
from moofusion.algorithms.soups import ScaledSoup
from moofusion.errors import ConfigurationError

__all__ = ["GRADIENT_ENTRIES"]


def _pwemoe(
    problem: Any,
    scalarization: str = "ls",
    routed: str = "mlp",
    hidden_layers: str = "1",
    steps: int | None = None,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    batch_size: int = 16,
    n_points: int | None = None,
) -> Algorithm:
    # The registry takes whole numbers of at least 1; a router without a hidden layer is one, too.
    if str(hidden_layers) not in ("0", "1", "2", "3"):
        raise ConfigurationError(f"pwemoe: hidden_layers must be 0 to 3, got {hidden_layers!r}")
    return PWEMoE(
        scalarization=scalarization,
        routed=routed,
        hidden_layers=int(hidden_layers),
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        batch_size=batch_size,
        n_points=n_points,
    )


def _constant(
    problem: Any,
    scalarization: str = "ls",
    routed: str = "mlp",
    steps: int | None = None,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    batch_size: int = 16,
) -> Algorithm:
    return PWEMoE(
        scalarization=scalarization,
        routed=routed,
        conditioned=False,
        steps=steps,
        lr=lr,
        weight_decay=weight_decay,
        batch_size=batch_size,
    )


def _scalarization(
    problem: Any,
    method: str = "ls",
    n_rays: int | None = None,
    steps: int | None = None,
    lr: float = 2e-2,
    batch_size: int = 16,
) -> Algorithm:
    return Scalarization(method, n_rays=n_rays, steps=steps, lr=lr, batch_size=batch_size)


def _scaled_soup(problem: Any, n_points: int | None = None) -> Algorithm:
    return ScaledSoup(n_points=n_points)


def _checkpoints(problem: Any, folder: str = "") -> Algorithm:
    return TrainedCheckpoints(str(folder))


GRADIENT_ENTRIES: dict[str, AlgorithmEntry] = {
    "pwemoe": AlgorithmEntry(_pwemoe, "PWEMoE, routers trained by gradients (Tang et al. 2024)"),
    "scalarization": AlgorithmEntry(_scalarization, "descent on L for one preference at a time"),
    "constant": AlgorithmEntry(_constant, "one learned L for every preference, a control"),
    "scaled_soup": AlgorithmEntry(_scaled_soup, "L = c * r for several c, a control"),
    "checkpoints": AlgorithmEntry(
        _checkpoints, "models fine-tuned by `moofusion baselines train`, a control of studies"
    ),
}
