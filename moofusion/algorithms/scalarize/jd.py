"""Aggregators of TorchJD, as far as they read the inner products of the gradients and no dice."""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.scalarize.weights import Scalarizer, Weights, scaled_gram
from moofusion.errors import ConfigurationError, UnknownNameError

__all__ = ["JD_WEIGHTINGS", "jd_scalarizer"]

Array = NDArray[np.float64]

#: Names under which they are known here, and TorchJD's classes.
JD_WEIGHTINGS = {
    "aligned_mtl": "AlignedMTLWeighting",
    "dual_proj": "DualProjWeighting",
    "imtl_g": "IMTLGWeighting",
    "upgrad": "UPGradWeighting",
}


def jd_scalarizer(name: str) -> Scalarizer:
    """A scalarization by TorchJD.

    Args:
        name: A key of :data:`JD_WEIGHTINGS`. Aligned-MTL, DualProj and UPGrad take the preference;
            IMTL-G is fair to all tasks alike and ignores it.

    Raises:
        UnknownNameError: There is none of that name.
        ConfigurationError: TorchJD, or what it needs for this one, is not installed.

    Source: Quinton and Rey 2024, Jacobian descent for multi-objective optimization
    (arXiv:2406.16232), and the papers that its documentation names.

    Example:
        >>> aligned = jd_scalarizer("aligned_mtl")
        >>> aligned(np.ones(2), np.eye(2), np.array([0.25, 0.75])).alpha
        array([0.25, 0.75])
    """
    if name not in JD_WEIGHTINGS:
        raise UnknownNameError("aggregator of TorchJD", name, JD_WEIGHTINGS)
    if importlib.util.find_spec("torchjd") is None:
        raise ConfigurationError(
            f"scalarization {name!r} comes from TorchJD, which is not installed: "
            "pip install 'moofusion[jd]'"
        )
    from torchjd import aggregation

    kind = getattr(aggregation, JD_WEIGHTINGS[name])
    preferred = "pref_vector" in inspect.signature(kind).parameters

    def weigh(losses: Array, gram: Array, r: Array) -> Weights:
        import torch

        options: dict[str, Any] = {"pref_vector": torch.as_tensor(r)} if preferred else {}
        # Degenerate gradients (all zero, opposite) are the aggregator's own business.
        alpha = kind(**options)(torch.as_tensor(scaled_gram(gram)))
        return Weights(np.asarray(alpha.numpy(), float))

    try:
        weigh(np.ones(2), np.eye(2), np.full(2, 0.5))
    except ImportError as error:
        raise ConfigurationError(f"scalarization {name!r} by TorchJD: {error}") from error
    return weigh
