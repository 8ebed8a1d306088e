"""Surrogates: metrics of merged models as cheap functions of the merge coefficients."""

from moofusion.surrogates.base import LeaveOneOut, Surrogate
from moofusion.surrogates.features import n_parameters
from moofusion.surrogates.gaussian_process import GaussianProcessSurrogate
from moofusion.surrogates.links import Identity, Link, Log, Logit, Softplus, link_for
from moofusion.surrogates.prior import PriorSurrogate
from moofusion.surrogates.quadratic import QuadraticSurrogate
from moofusion.surrogates.support import Support
from moofusion.surrogates.surrogate_set import SURROGATES, MergeSurrogate, Target

__all__ = [
    "SURROGATES",
    "GaussianProcessSurrogate",
    "Identity",
    "LeaveOneOut",
    "Link",
    "Log",
    "Logit",
    "MergeSurrogate",
    "PriorSurrogate",
    "QuadraticSurrogate",
    "Softplus",
    "Support",
    "Surrogate",
    "Target",
    "link_for",
    "n_parameters",
]
