"""How weights are combined: the linear kernel and the search spaces of its coefficients."""

from moofusion.merging.linear import LinearMerge
from moofusion.merging.spaces import (
    SPACES,
    DepthSpline,
    GroupWise,
    LinearSpace,
    Simplex,
    Space,
    make_space,
)

__all__ = [
    "SPACES",
    "DepthSpline",
    "GroupWise",
    "LinearMerge",
    "LinearSpace",
    "Simplex",
    "Space",
    "make_space",
]
