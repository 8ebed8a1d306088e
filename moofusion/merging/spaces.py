"""Search spaces: how a decision vector becomes merge coefficients.

A space maps decision vectors X ``(P, n_var)`` to coefficients ``(P, G, K)`` for the G groups of
its partition and the K experts, and carries gradients back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging.methods.ranges import Range
from moofusion.weights.layout import ParameterLayout, Partition

__all__ = ["SPACES", "DepthSpline", "GroupWise", "LinearSpace", "Simplex", "Space", "make_space"]

Array = NDArray[np.float64]

#: Scale of task arithmetic, and coefficient of what a sub-selection leaves out.
LAMBDA_0 = 0.3


class Space(ABC):
    """Base class of all spaces.

    Args:
        partition: Groups that take coefficients.
        experts: Names of the K experts.
        lower: Lower bound of every variable.
        upper: Upper bound of every variable.
        static: Coefficients ``(K,)`` of the part that no group covers; a number stands for all.

    Attributes:
        n_var: Number of variables.
        xl: Lower bounds, shape ``(n_var,)``.
        xu: Upper bounds, shape ``(n_var,)``.
        names: Names of the variables.

    Example:
        >>> from moofusion.testing import toy_problem
        >>> space = toy_problem(("a", "b"), space="block-wise").space
        >>> space.n_var, space.names[:2]
        (10, ('stem:a', 'stem:b'))
        >>> space.coefficients(np.full((1, 10), 0.3)).shape  # candidates, groups, experts
        (1, 5, 2)
    """

    def __init__(
        self,
        partition: Partition,
        experts: Sequence[str],
        names: Sequence[str],
        *,
        lower: float,
        upper: float,
        static: float | Sequence[float] = LAMBDA_0,
    ) -> None:
        if not np.isfinite([lower, upper]).all() or lower >= upper:
            raise ConfigurationError(
                f"space bounds must be finite with lower < upper, got {lower} and {upper}"
            )
        self.partition = partition
        self.experts = tuple(experts)
        self.names = tuple(names)
        self.n_var = len(self.names)
        self.xl = np.full(self.n_var, float(lower))
        self.xu = np.full(self.n_var, float(upper))
        fixed = np.asarray(static, float)
        if fixed.shape not in ((), (self.n_experts,)) or not np.isfinite(fixed).all():
            raise ConfigurationError(
                f"static coefficients: expected a number, or one for each of the "
                f"{self.n_experts} experts, got {static!r}"
            )
        self.static = np.broadcast_to(fixed, (self.n_experts,)).copy()

    @property
    def n_experts(self) -> int:
        """Number of experts K."""
        return len(self.experts)

    @property
    def n_groups(self) -> int:
        """Number of groups G."""
        return self.partition.n_groups

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.partition.granularity}, n_var={self.n_var}, "
            f"groups={self.n_groups}, experts={self.n_experts})"
        )

    @abstractmethod
    def coefficients(self, X: Array) -> Array:
        """Coefficients ``(P, G, K)`` of decision vectors ``(P, n_var)``."""

    @abstractmethod
    def decision(self, L: Array) -> Array:
        """Decision vectors ``(P, n_var)`` whose coefficients are (closest to) `L` ``(P, G, K)``.

        The result is clipped to the bounds; ``coefficients(decision(L))`` tells what was reached.
        """

    @abstractmethod
    def pullback(self, x: Array, dL: Array) -> Array:
        """Gradient ``(n_var,)`` at `x` from the gradient ``(G, K)`` of the coefficients."""

    @property
    def n_coefficients(self) -> int:
        """Number of variables that decide the coefficients: the first ones, here all."""
        return self.n_var

    @property
    def searched(self) -> Mapping[str, Range]:
        """Parameters of the merge method among the variables: name, and values; here none."""
        return {}

    def parameters(self, X: Array) -> list[dict[str, Any]]:
        """Parameters of the merge method that each decision vector sets; here none."""
        return [{} for _ in np.atleast_2d(X)]

    def canonical(self, X: Array) -> Array:
        """Of decision vectors ``(P, n_var)`` that stand for the same model, one for all.

        They differ where parameters of the merge method are rounded; here they are `X` itself.
        """
        return X

    def scattered(self, X: Array, rng: np.random.Generator) -> Array:
        """Decision vectors with the parameters of the merge method drawn at random; here `X`."""
        return X

    def uniform(self, L: Array) -> Array:
        """Decision vectors for task-wise coefficients ``(P, K)``, the same in every group."""
        rows = np.asarray(L, float)[:, None, :]
        return self.decision(np.repeat(rows, self.n_groups, axis=1))


class LinearSpace(Space):
    """Spaces in which ``L = basis @ x.reshape(C, K)``.

    Args:
        basis: Matrix ``(G, C)``.
        controls: Names of its C columns.

    Example:
        >>> from moofusion.weights import ParameterLayout
        >>> layout = ParameterLayout({"layers.0.mlp.weight": (4, 4), "layers.1.mlp.weight": (4, 4)})
        >>> blocks, basis = layout.partition("block"), np.array([[0.0], [1.0]])
        >>> slope = LinearSpace(blocks, ["a"], basis, ["last"], lower=0.0, upper=1.0)
        >>> slope.coefficients([[0.4]])  # nothing in the first block
        array([[[0. ], [0.4]]])
    """

    def __init__(
        self,
        partition: Partition,
        experts: Sequence[str],
        basis: Array,
        controls: Sequence[str],
        **options: Any,
    ) -> None:
        names = [f"{c}:{e}" if len(controls) > 1 else e for c in controls for e in experts]
        super().__init__(partition, experts, names, **options)
        self.basis = basis
        self._inverse = np.linalg.pinv(basis)

    def coefficients(self, X: Array) -> Array:
        """Coefficients ``(P, G, K)`` of decision vectors ``(P, n_var)``."""
        X = np.atleast_2d(np.asarray(X, float))
        controls = X.reshape(len(X), self.basis.shape[1], self.n_experts)
        return np.asarray(np.einsum("gc,pck->pgk", self.basis, controls))

    def decision(self, L: Array) -> Array:
        """Least-squares decision vectors of `L`, clipped to the bounds."""
        controls = np.einsum("cg,pgk->pck", self._inverse, np.asarray(L, float))
        return np.asarray(np.clip(controls.reshape(len(L), self.n_var), self.xl, self.xu))

    def uniform(self, L: Array) -> Array:
        """Decision vectors for task-wise coefficients ``(P, K)``, the same in every group."""
        if not np.allclose(self.basis.sum(axis=1), 1):
            return super().uniform(L)
        # A basis that sums to one keeps constants: equal controls, without a least-squares detour.
        controls = np.tile(np.asarray(L, float), self.basis.shape[1])
        return np.asarray(np.clip(controls, self.xl, self.xu))

    def pullback(self, x: Array, dL: Array) -> Array:
        """Chain rule: ``basis.T @ dL``."""
        return np.asarray((self.basis.T @ dL).ravel())


class GroupWise(LinearSpace):
    """One coefficient per group and expert: task-wise, block-wise, module-wise or tensor-wise.

    Args:
        partition: Groups; with a single one this is the task-wise space, ``n_var = K``.
        experts: Names of the K experts.
        lower: Lower bound of every coefficient.
        upper: Upper bound of every coefficient.
        static: Coefficients of what no group covers.

    Example:
        >>> layout = ParameterLayout({"h.0.w": (2,), "h.1.w": (2,)})
        >>> GroupWise(layout.partition("block"), ["a", "b"]).names
        ('h.0:a', 'h.0:b', 'h.1:a', 'h.1:b')
    """

    def __init__(
        self,
        partition: Partition,
        experts: Sequence[str],
        *,
        lower: float = 0.0,
        upper: float = 1.0,
        static: float | Sequence[float] = LAMBDA_0,
    ) -> None:
        super().__init__(
            partition,
            experts,
            np.eye(partition.n_groups),
            partition.names,
            lower=lower,
            upper=upper,
            static=static,
        )


class DepthSpline(LinearSpace):
    """Coefficients that vary smoothly with depth: a few control points per expert.

    Args:
        partition: Groups, for example of granularity ``"block"``.
        experts: Names of the K experts.
        controls: Number of control points C per expert, at least 2.
        lower: Lower bound of every control point (and so of every coefficient).
        upper: Upper bound of every control point (and so of every coefficient).
        static: Coefficients of what no group covers.

    A clamped B-spline of degree ``min(3, C - 1)``: its basis is non-negative and sums to one, so
    coefficients stay within the bounds of the control points.

    Example:
        >>> layout = ParameterLayout({f"h.{i}.w": (2,) for i in range(12)})
        >>> DepthSpline(layout.partition("block"), ["a", "b"], controls=3).n_var
        6
    """

    def __init__(
        self,
        partition: Partition,
        experts: Sequence[str],
        *,
        controls: int = 3,
        lower: float = 0.0,
        upper: float = 1.0,
        static: float | Sequence[float] = LAMBDA_0,
    ) -> None:
        if controls < 2:
            raise ConfigurationError(f"a depth spline needs at least 2 controls, got {controls}")
        degree = min(3, controls - 1)
        inner = np.linspace(0, 1, controls - degree + 1)[1:-1]
        knots = np.concatenate([np.zeros(degree + 1), inner, np.ones(degree + 1)])
        basis = BSpline.design_matrix(partition.depth, knots, degree).toarray()
        names = [f"depth{i / (controls - 1):.2f}" for i in range(controls)]
        super().__init__(partition, experts, basis, names, lower=lower, upper=upper, static=static)


class Simplex(Space):
    """Convex combinations of the experts, times a scale: ``L = scale * x / sum(x)`` per group.

    Args:
        partition: Groups, one simplex each.
        experts: Names of the K experts.
        scale: Sum of the coefficients of each group.
        static: Coefficients of what no group covers.

    A decision vector of zeros stands for equal coefficients.

    Example:
        >>> layout = ParameterLayout({"w": (2,)})
        >>> space = Simplex(layout.partition("model"), ["a", "b"])
        >>> space.coefficients(np.array([[0.2, 0.6]]))
        array([[[0.25, 0.75]]])
    """

    def __init__(
        self,
        partition: Partition,
        experts: Sequence[str],
        *,
        scale: float = 1.0,
        static: float | Sequence[float] = LAMBDA_0,
    ) -> None:
        groups = partition.names
        names = [f"{g}:{e}" if len(groups) > 1 else e for g in groups for e in experts]
        super().__init__(partition, experts, names, lower=0.0, upper=1.0, static=static)
        if not np.isfinite(scale) or scale <= 0:
            raise ConfigurationError(f"simplex scale must be positive, got {scale}")
        self.scale = float(scale)

    def coefficients(self, X: Array) -> Array:
        """Coefficients ``(P, G, K)`` of decision vectors ``(P, n_var)``."""
        X = np.atleast_2d(np.asarray(X, float)).reshape(-1, self.n_groups, self.n_experts)
        total = X.sum(axis=2, keepdims=True)
        equal = np.full_like(X, 1 / self.n_experts)
        return np.asarray(self.scale * np.divide(X, total, out=equal, where=total > 0))

    def decision(self, L: Array) -> Array:
        """Decision vectors on the simplex; exact where `L` is non-negative and sums to `scale`."""
        rows = np.clip(np.asarray(L, float), 0, None)
        total = rows.sum(axis=2, keepdims=True)
        shares = np.divide(rows, total, out=np.full_like(rows, 1 / self.n_experts), where=total > 0)
        return np.asarray(shares.reshape(len(rows), self.n_var))

    def pullback(self, x: Array, dL: Array) -> Array:
        """Chain rule through the normalization."""
        rows = np.asarray(x, float).reshape(self.n_groups, self.n_experts)
        total = rows.sum(axis=1, keepdims=True)
        shares = np.divide(rows, total, out=np.full_like(rows, 1 / self.n_experts), where=total > 0)
        centred = dL - (dL * shares).sum(axis=1, keepdims=True)
        safe = np.where(total > 0, total, 1.0)
        return np.asarray((self.scale * centred / safe).ravel())


#: Names under which spaces are known to problem files: kind -> (class, granularity).
SPACES: dict[str, tuple[type[Space], str]] = {
    "task-wise": (GroupWise, "model"),
    "block-wise": (GroupWise, "block"),
    "module-wise": (GroupWise, "module"),
    "tensor-wise": (GroupWise, "tensor"),
    "depth-spline": (DepthSpline, "block"),
    "simplex": (Simplex, "model"),
}


def make_space(
    kind: str,
    layout: ParameterLayout,
    experts: Sequence[str],
    *,
    select: str | Sequence[str] | None = None,
    granularity: str | None = None,
    **options: Any,
) -> Space:
    """Space by name.

    Args:
        kind: A key of :data:`SPACES`.
        layout: Places of the merged tensors.
        experts: Names of the K experts.
        select: Part of the model that is searched (see :meth:`ParameterLayout.partition`); the
            rest keeps the coefficients `static`.
        granularity: Groups, where they are to differ from the kind's own.
        **options: Passed to the class.

    Raises:
        ConfigurationError: An unknown kind, or an option that the kind does not have.

    Example:
        >>> from moofusion.weights import ParameterLayout
        >>> layout = ParameterLayout({"layers.0.mlp.weight": (4, 4), "layers.1.mlp.weight": (4, 4)})
        >>> make_space("block-wise", layout, ["a", "b"]).n_var
        4
    """
    if kind not in SPACES:
        raise UnknownNameError("space", kind, SPACES)
    space_class, default = SPACES[kind]
    partition = layout.partition(granularity or default, select=select)
    try:
        return space_class(partition, experts, **options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"space {kind!r}: {error}") from error
