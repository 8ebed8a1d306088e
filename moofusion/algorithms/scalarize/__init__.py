"""Scalarizations: from losses, inner products of gradients and a preference to weights."""

from __future__ import annotations

from moofusion.algorithms.scalarize.epo import epo, non_uniformity
from moofusion.algorithms.scalarize.jd import JD_WEIGHTINGS, jd_scalarizer
from moofusion.algorithms.scalarize.mgda import mgda, min_norm
from moofusion.algorithms.scalarize.rules import linear, smooth_tchebycheff, tchebycheff
from moofusion.algorithms.scalarize.weights import Scalarizer, Weights
from moofusion.errors import UnknownNameError

__all__ = [
    "SCALARIZERS",
    "Scalarizer",
    "Weights",
    "epo",
    "get_scalarizer",
    "jd_scalarizer",
    "linear",
    "mgda",
    "min_norm",
    "non_uniformity",
    "smooth_tchebycheff",
    "tchebycheff",
]

#: Those that need nothing beside numpy and scipy.
SCALARIZERS: dict[str, Scalarizer] = {
    "ls": linear,
    "tchebycheff": tchebycheff,
    "smooth_tchebycheff": smooth_tchebycheff,
    "epo": epo,
    "mgda": mgda,
}


def get_scalarizer(name: str) -> Scalarizer:
    """A scalarization by name: a key of :data:`SCALARIZERS`, or an aggregator of TorchJD.

    Raises:
        UnknownNameError: There is none of that name.
        ConfigurationError: It needs TorchJD, which is not installed.

    Example:
        >>> get_scalarizer("ls").__name__
        'linear'
    """
    if name in SCALARIZERS:
        return SCALARIZERS[name]
    if name in JD_WEIGHTINGS:
        return jd_scalarizer(name)
    raise UnknownNameError("scalarization", name, [*SCALARIZERS, *JD_WEIGHTINGS])
