"""How weights are combined: the merge methods and the search spaces of their coefficients."""

from moofusion.merging.linear import LinearMerge
from moofusion.merging.methods import (
    METHODS,
    Linear,
    Merge,
    MergeMethod,
    TaskVectorTransform,
    Ties,
    make_method,
)
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
    "METHODS",
    "SPACES",
    "DepthSpline",
    "GroupWise",
    "Linear",
    "LinearMerge",
    "LinearSpace",
    "Merge",
    "MergeMethod",
    "Simplex",
    "Space",
    "TaskVectorTransform",
    "Ties",
    "make_method",
    "make_space",
]
