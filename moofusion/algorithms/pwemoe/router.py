"""ParetoRouter: from a preference to merge coefficients; saved in kilobytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.preferences import parse_preference
from moofusion.algorithms.pwemoe.network import RouterNetwork
from moofusion.algorithms.pwemoe.routing import route
from moofusion.algorithms.storage import read_state, write_state
from moofusion.errors import ConfigurationError, RunError

if TYPE_CHECKING:
    from moofusion.problems import MergeProblem
    from moofusion.weights.export import Exported

__all__ = ["ParetoRouter"]

Array = NDArray[np.float64]
Preference = str | Mapping[str, float] | Sequence[float] | Array

_KIND = "pareto-router"
_NETWORK = ("routed", "hidden_layers", "conditioned", "zero_init")
# What must be equal in the problem a router was made on and the one it is used on.
_SAME = ("tasks", "experts", "groups", "static", "weights", "method")


class ParetoRouter:
    """One small network per routed group: preference r in, a row of coefficients out.

    ``L[g, :] = W2 relu(W1 r + b1) + b2``, unconstrained: coefficients may be negative or above
    one. Groups that are not routed keep the space's static coefficients, as does what no group
    covers. At the start the merge is task arithmetic, to 1e-4 of a coefficient.

    Args:
        problem: The problem whose space takes the coefficients; it fixes the order of tasks
            (preferences) and experts (coefficients).
        routed: ``"mlp"``, ``"mlp+attention"`` or ``"all"``.
        hidden_layers: 1 as above, with 2 M hidden units for M tasks; 0 for one linear map; more
            are possible.
        conditioned: False makes every router a constant that ignores the preference (a control).
        zero_init: Start with the last weights at zero: exactly task arithmetic.
        rng: Source of the initial weights.

    Attributes:
        names: Names of the R routers.
        rows: Router of each of the G groups, -1 where none.
        theta: All parameters, shape ``(P,)``.
        tasks: Order of the preferences.
        experts: Order of the coefficients.

    Raises:
        ConfigurationError: The space is too coarse for what is to be routed.

    Source: Tang et al. 2024, Towards efficient Pareto set approximation via mixture of experts
    based model fusion (arXiv:2406.09770), eq. 5.

    Example:
        >>> import moofusion
        >>> problem = moofusion.get_problem("vision4", tasks=["mnist", "fashion"],
        ...                                 space="module-wise")
        >>> router = ParetoRouter(problem, rng=np.random.default_rng(0))
        >>> router.coefficients("mnist=0.7,fashion=0.3").shape == (problem.space.n_groups, 2)
        True
    """

    def __init__(
        self,
        problem: MergeProblem,
        *,
        routed: str = "mlp",
        hidden_layers: int = 1,
        conditioned: bool = True,
        zero_init: bool = False,
        rng: np.random.Generator,
    ) -> None:
        if hidden_layers < 0:
            raise ConfigurationError(f"hidden_layers must be 0 or more, got {hidden_layers}")
        routing = route(problem, routed)
        self.names, self.rows = routing.names, routing.rows
        self.routed, self.hidden_layers = routed, int(hidden_layers)
        self.conditioned, self.zero_init = bool(conditioned), bool(zero_init)
        self.made_for = _identity(problem)
        self._problem: MergeProblem | None = problem
        self._spec = _described(problem)
        self.network = RouterNetwork(len(self.names), self._widths())
        self.theta = self.network.initial(self.static, rng=rng, zero_last=zero_init)

    def _widths(self) -> list[int]:
        M, K = len(self.tasks), len(self.experts)
        return [M, *[2 * M] * self.hidden_layers, K] if self.conditioned else [K]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the objectives, in the order of preferences."""
        return tuple(self.made_for["tasks"])

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts, in the order of coefficients."""
        return tuple(self.made_for["experts"])

    @property
    def static(self) -> Array:
        """lambda_0: coefficients of everything that is not routed, shape ``(K,)``."""
        return np.array(self.made_for["static"], float)

    @property
    def n_parameters(self) -> int:
        """Number of parameters of all routers together."""
        return self.network.n_parameters

    def __repr__(self) -> str:
        return (
            f"ParetoRouter({len(self.names)} routers, {self.n_parameters} parameters, "
            f"routed={self.routed!r}, tasks={list(self.tasks)}, experts={list(self.experts)})"
        )

    # ------------------------------------------------------------------ coefficients

    def coefficients(self, preference: Preference) -> Array:
        """Coefficients ``(G, K)`` for one preference; a pure function of it and `theta`.

        Args:
            preference: M numbers, ``"mnist=0.7,fashion=0.3"``, or a mapping; scaled to sum one.
        """
        return np.asarray(self.batch(parse_preference(preference, self.tasks)[None])[0])

    def batch(self, preferences: Array) -> Array:
        """Coefficients ``(N, G, K)`` for preferences ``(N, M)`` that sum to one."""
        R = np.asarray(preferences, float)
        L = np.empty((len(R), len(self.rows), len(self.experts)))
        L[:] = self.static
        L[:, self.rows >= 0] = self.network.forward(self.theta, R)[:, self.rows[self.rows >= 0]]
        return L

    def pullback(self, r: Array, dL: Array) -> Array:
        """Gradients of M losses with respect to `theta`.

        Args:
            r: One preference that sums to one, shape ``(M,)``.
            dL: Their gradients with respect to the coefficients, shape ``(M, G, K)``.

        Returns:
            Jacobian, shape ``(M, P)``.
        """
        upstream = np.zeros((len(dL), len(self.names), len(self.experts)))
        for group, row in enumerate(self.rows):
            if row >= 0:
                upstream[:, row] += dL[:, group]
        return self.network.pullback(self.theta, r, upstream)

    # ------------------------------------------------------------------ disk

    def save(self, path: str | Path) -> Path:
        """Write the routers, their order and the fingerprint of the weights; kilobytes.

        Args:
            path: A ``.safetensors`` file; replaced if it is there.
        """
        description = {
            "kind": _KIND,
            "names": list(self.names),
            "rows": self.rows.tolist(),
            "made_for": self.made_for,
            "problem": self._spec,
            **{key: getattr(self, key) for key in _NETWORK},
        }
        return write_state(Path(path), self.network.split(self.theta), description)

    @classmethod
    def load(cls, path: str | Path, problem: MergeProblem | None = None) -> ParetoRouter:
        """Read a router back.

        Args:
            path: What :meth:`save` wrote.
            problem: The problem it will be used on; needed for :meth:`export`.

        Raises:
            RunError: The file is no router, or is damaged.
            ConfigurationError: The router was made for other models, tasks or groups.
        """
        tensors, description = read_state(Path(path), _KIND)
        router = cls.__new__(cls)
        try:
            for key in (*_NETWORK, "made_for"):
                setattr(router, key, description[key])
            router.names = tuple(description["names"])
            router.rows = np.array(description["rows"], dtype=np.int64)
            router._problem, router._spec = None, description.get("problem")
            router.network = RouterNetwork(len(router.names), router._widths())
            parts = [tensors[name].reshape(shape) for name, shape in router.network.shapes]
        except (KeyError, ValueError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}); train the router again") from error
        router.theta = np.concatenate([part.ravel() for part in parts])
        if problem is not None:
            router.attach(problem)
        return router

    def attach(self, problem: MergeProblem) -> ParetoRouter:
        """Use the router on a problem from now on; returns the router.

        Raises:
            ConfigurationError: It was made for other models, tasks or groups.
        """
        theirs = _identity(problem)
        for key in _SAME:
            if self.made_for[key] != theirs[key]:
                mine = self.made_for[key]
                what = {
                    "weights": "the models differ (fingerprint of base and experts)",
                    "groups": f"it serves {len(mine)} groups, not the {len(theirs['groups'])} "
                    "of this space",
                }.get(key, f"its {key} are {mine}, in this order, not {theirs[key]}")
                raise ConfigurationError(
                    f"this router does not fit the problem {problem.title!r}: {what}; open the "
                    "problem as it was when the router was trained, or train another"
                )
        self._problem, self._spec = problem, _described(problem)
        return self

    def reopen(self) -> MergeProblem:
        """Open the problem the router was trained on, and use it from now on.

        Raises:
            ConfigurationError: It was trained on a problem in memory, or the models have changed.
        """
        from moofusion.problems import ProblemSpec

        if self._spec is None:
            raise ConfigurationError(
                "this router was trained on a problem in memory, so its models cannot be opened "
                "again; use it from Python: ParetoRouter.load(path, problem)"
            )
        problem = ProblemSpec.model_validate(self._spec).build()
        self.attach(problem)
        return problem

    def export(
        self,
        preference: Preference,
        to: str | Path,
        *,
        head: str | None = None,
        dtype: str = "float32",
        adapter: str | None = None,
        rank: int | None = None,
        force: bool = False,
    ) -> Exported:
        """Write the merge of a preference as an ordinary checkpoint; the router stays as it is.

        Args:
            preference: Importance of the tasks.
            to: Folder to write; it must not exist, unless `force`.
            head: Task whose head goes into the checkpoint; by default the most important.
            dtype: Precision of the weights.
            adapter: Where all experts are LoRA adapters, write one instead of the whole model:
                ``"svd"``, ``"cat"`` or ``"linear"``.
            rank: Its rank, for ``"svd"``.
            force: Replace an existing folder.

        Raises:
            ConfigurationError: The router was loaded without a problem.
        """
        from moofusion.problems.export import export_merge

        problem = self._problem
        if problem is None:
            raise ConfigurationError(
                "a router holds no models; give it the problem first: "
                "ParetoRouter.load(path, problem), or router.attach(problem)"
            )
        r = parse_preference(preference, self.tasks)
        L = self.coefficients(r)
        splits = ("search", "test") if problem.has_test_split else (problem.split,)
        metrics: dict[str, dict[str, float]] = {}
        for split in splits:
            found = problem.evaluator.measure(L[None], split)[0].measurements
            metrics[split] = {
                task.name: m.metrics[task.objective.name]
                for task, m in zip(problem.tasks, found, strict=True)
            }
        wish = ", ".join(f"{t}={w:.6g}" for t, w in zip(self.tasks, r, strict=True) if w > 0)
        settings: dict[str, Any] = {
            "problem": problem.title,
            "fingerprint": problem.fingerprint(),
            "router": {key: getattr(self, key) for key in _NETWORK},
        }
        return export_merge(
            problem,
            L,
            task=head or self.tasks[int(r.argmax())],
            metrics=metrics,
            chosen=f"made for preference {wish}",
            settings=settings,
            found=f"coefficients from a trained Pareto router on problem `{problem.title}`",
            to=Path(to),
            dtype=dtype,
            adapter=adapter,
            rank=rank,
            force=force,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> ParetoRouter:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        # Everything else is never changed in place; the problem is a handle on shared models.
        twin.__dict__.update(self.__dict__)
        twin.theta = self.theta.copy()
        return twin


def _identity(problem: MergeProblem) -> dict[str, Any]:
    """What ties a router to a problem, as JSON holds it."""
    space = problem.space
    return json.loads(  # type: ignore[no-any-return]
        json.dumps(
            {
                "tasks": list(problem.task_names),
                "experts": list(space.experts),
                "groups": list(space.partition.names),
                "static": space.static.tolist(),
                "weights": problem.evaluator.weights_fingerprint,
                "method": problem.evaluator.method.table,
            }
        )
    )


def _described(problem: MergeProblem) -> dict[str, Any] | None:
    """The problem file, by which the models can be opened again; None where there is none."""
    spec = getattr(problem, "spec", None)
    return None if spec is None else spec.model_dump()
