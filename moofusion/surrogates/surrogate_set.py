"""All surrogates of one problem: an objective each, predicted as the problem measures them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError, EvaluationWarning, RunError, UnknownNameError
from moofusion.surrogates.base import Surrogate
from moofusion.surrogates.gaussian_process import GaussianProcessSurrogate
from moofusion.surrogates.links import Link, link_for, link_from
from moofusion.surrogates.prior import PriorSurrogate
from moofusion.surrogates.quadratic import QuadraticSurrogate
from moofusion.surrogates.support import Support
from moofusion.tasks.base import Metric

if TYPE_CHECKING:
    import pandas as pd

    from moofusion.problems import SurrogateProblem

__all__ = ["SURROGATES", "MergeSurrogate", "Target"]

Array = NDArray[np.float64]

#: Kinds that can be asked for by name.
SURROGATES: dict[str, type[Surrogate]] = {
    "quadratic": QuadraticSurrogate,
    "gp": GaussianProcessSurrogate,
}
_KINDS: dict[str, type[Surrogate]] = {**SURROGATES, "prior": PriorSurrogate}
_FORMAT = 1


@dataclass(frozen=True)
class Target:
    """A quantity that is modelled: one objective of the problem.

    Attributes:
        name: Name of the objective.
        metric: What is measured, and how it becomes the objective.
        link: Scale on which it is modelled.

    Example:
        >>> target = Target.of("digits", Metric("accuracy", best=1.0, worst=1.0), samples=500)
        >>> target.link.name, round(float(target.link.forward(np.array([0.5]))[0]), 3)
        ('logit', 0.0)
    """

    name: str
    metric: Metric
    link: Link

    @classmethod
    def of(
        cls, name: str, metric: Metric, *, samples: int | None = None, link: str | None = None
    ) -> Target:
        """Target with the link that suits its metric, or another one by name."""
        return cls(
            name,
            metric,
            link_for(metric, samples=samples) if link is None else link_from({"name": link}),
        )


class MergeSurrogate:
    """Fitted surrogates of all objectives (and constraints) of a problem.

    Predictions have the orientation of the problem: everything is minimized. Standard deviations
    come from the link scale by the delta method.

    Args:
        targets: The objectives.
        models: A fitted surrogate for each, then one for each constraint (on its own scale).
        support: Region that was sampled.
        kind: Name of the surrogates.
        space: Search space of the problem, if it has one.
        xl: Lower bounds of the problem.
        xu: Upper bounds of the problem.

    Attributes:
        names: Names of the objectives.
        links: Their links.

    Example:
        >>> X = np.random.default_rng(0).uniform(size=(20, 2))
        >>> metric = Metric("score", "min")
        >>> both = MergeSurrogate.fit(X, np.stack([X[:, 0]**2, X[:, 1]], 1),
        ...                           [Target.of(n, metric) for n in "ab"])
        >>> both.predict([[0.5, 0.25]])[0].round(6)
        array([[0.25, 0.25]])
    """

    def __init__(
        self,
        targets: Sequence[Target],
        models: Sequence[Surrogate],
        support: Support,
        *,
        kind: str = "quadratic",
        space: Any = None,
        xl: Array | None = None,
        xu: Array | None = None,
    ) -> None:
        if len(models) < len(targets):
            raise ConfigurationError(
                f"expected a surrogate for each of {len(targets)} objectives, got {len(models)}"
            )
        self.targets = tuple(targets)
        self.models = tuple(models[: len(targets)])
        self.constraint_models = tuple(models[len(targets) :])
        self.support = support
        self.kind = kind
        self.space = space
        self.xl = support.lower if xl is None else np.asarray(xl, float)
        self.xu = support.upper if xu is None else np.asarray(xu, float)

    @classmethod
    def fit(
        cls,
        X: Array,
        values: Array,
        targets: Sequence[Target],
        *,
        kind: str = "quadratic",
        constraints: Array | None = None,
        gradients: Array | None = None,
        priors: Sequence[Surrogate | None] | None = None,
        relevance: Array | None = None,
        warn: bool = False,
        **place: Any,
    ) -> MergeSurrogate:
        """Fit one surrogate to each column.

        Args:
            X: Decision vectors, shape ``(P, n_var)``.
            values: Metrics as measured, shape ``(P, M)``.
            targets: The M objectives.
            kind: A key of :data:`SURROGATES`.
            constraints: Constraint values (pymoo's G), shape ``(P, C)``.
            gradients: Derivatives of the metrics, shape ``(P, M, n_var)``; NaN where not known.
            priors: For each objective a fitted surrogate to start from, or None.
            relevance: How much it matters to be right at each point, shape ``(P,)``, in (0, 1].
            warn: Warn of objectives whose leave-one-out R^2 is below 0.5.
            **place: `space`, `xl` and `xu` of the problem.

        Raises:
            UnknownNameError: There is no surrogate of that kind.
            ConfigurationError: Shapes do not fit.
        """
        if kind not in SURROGATES:
            raise UnknownNameError("surrogate", kind, SURROGATES)
        X, values = np.atleast_2d(np.asarray(X, float)), np.asarray(values, float)
        if values.shape != (len(X), len(targets)):
            raise ConfigurationError(
                f"expected metrics of shape ({len(X)}, {len(targets)}), got {values.shape}"
            )
        models: list[Surrogate] = []
        for j, target in enumerate(targets):
            y = values[:, j]
            prior = None if priors is None else priors[j]
            model = SURROGATES[kind]() if prior is None else PriorSurrogate(prior)
            slopes = None
            if gradients is not None and prior is None:
                slopes = target.link.slope(y)[:, None] * gradients[:, j]
            models.append(
                model.fit(
                    X,
                    target.link.forward(y),
                    noise=target.link.noise(y),
                    gradients=slopes,
                    relevance=relevance,
                )
            )
        if constraints is not None:
            models += [SURROGATES[kind]().fit(X, g) for g in np.asarray(constraints, float).T]
        self = cls(targets, models, Support(X), kind=kind, **place)
        if warn:
            self.warn_if_poor()
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the objectives."""
        return tuple(target.name for target in self.targets)

    @property
    def links(self) -> tuple[Link, ...]:
        """Link of each objective."""
        return tuple(target.link for target in self.targets)

    @property
    def n_var(self) -> int:
        """Number of variables."""
        return int(self.support.X.shape[1])

    def __repr__(self) -> str:
        quality = ", ".join(
            f"{n} {m.loo.r2:.2f}" for n, m in zip(self.names, self.models, strict=True)
        )
        return (
            f"MergeSurrogate({self.kind}, {self.models[0].n_points} points, "
            f"{self.n_var} variables, leave-one-out R^2: {quality})"
        )

    # ------------------------------------------------------------------ predictions

    def metrics(self, X: Array) -> Array:
        """Predicted metrics ``(P, M)``, as they are measured."""
        columns = [
            target.link.inverse(model.predict(X)[0])
            for target, model in zip(self.targets, self.models, strict=True)
        ]
        return np.stack(columns, axis=1)

    def predict(self, X: Array, *, optimism: float = 0.0) -> tuple[Array, Array]:
        """Predicted objectives and their standard deviations, both ``(P, M)``; minimized.

        Args:
            X: Decision vectors, shape ``(P, n_var)``.
            optimism: Standard deviations by which the objectives are moved towards better
                values, on the link scale, where bounds hold.
        """
        F, std = [], []
        for target, model in zip(self.targets, self.models, strict=True):
            z, spread = model.predict(X)
            better = 1.0 if target.metric.direction == "max" else -1.0
            y = target.link.inverse(z + better * optimism * spread)
            F.append(target.metric.best - y if better > 0 else y)
            std.append(np.abs(target.link.inverse_slope(z)) * spread)
        return np.stack(F, axis=1), np.stack(std, axis=1)

    def gradients(self, X: Array) -> Array:
        """Derivatives of the predicted objectives, shape ``(P, M, n_var)``."""
        rows = []
        for target, model in zip(self.targets, self.models, strict=True):
            slope = target.link.inverse_slope(model.predict(X)[0])[:, None] * model.gradient(X)
            rows.append(-slope if target.metric.direction == "max" else slope)
        return np.stack(rows, axis=1)

    def constraints(self, X: Array) -> Array:
        """Predicted constraint values ``(P, C)``; at most 0 where they are met."""
        if not self.constraint_models:
            return np.zeros((len(np.atleast_2d(X)), 0))
        return np.stack([model.predict(X)[0] for model in self.constraint_models], axis=1)

    def problem(self, **options: Any) -> SurrogateProblem:
        """Problem on the predictions, for amortized search with any pymoo algorithm.

        Args:
            **options: Passed to :class:`moofusion.problems.SurrogateProblem`.
        """
        from moofusion.problems.surrogate_problem import SurrogateProblem

        return SurrogateProblem(self, **options)

    # ------------------------------------------------------------------ reading

    def coefficients(self) -> dict[str, tuple[Array, Array, float]]:
        """``{objective: (A, b, e)}`` of ``e + b.c + c'Ac / 2`` on the link scale.

        Raises:
            ConfigurationError: The surrogates are not quadratic.
        """
        found = {}
        for name, model in zip(self.names, self.models, strict=True):
            if not isinstance(model, QuadraticSurrogate):
                raise ConfigurationError(
                    f"the {model.kind} surrogate of {name!r} has no coefficients A, b, e"
                )
            found[name] = (model.A, model.b, model.e)
        return found

    def table(self) -> pd.DataFrame:
        """One row for each objective: link, points, leave-one-out R^2 and RMSE, noise floor."""
        import pandas as pd

        rows = []
        for target, model in zip(self.targets, self.models, strict=True):
            loo = model.loo
            real, guess = target.link.inverse(loo.observed), target.link.inverse(loo.predicted)
            rows.append(
                {
                    "objective": target.name,
                    "metric": target.metric.name,
                    "link": target.link.name,
                    "points": model.n_points,
                    "R2 (leave one out)": loo.r2,
                    "RMSE (link scale)": loo.rmse,
                    "noise floor (link scale)": loo.noise,
                    "RMSE (metric)": float(np.sqrt(np.mean((real - guess) ** 2))),
                    "note": model.note,
                }
            )
        return pd.DataFrame(rows).set_index("objective")

    def _repr_html_(self) -> str:
        return str(self.table().round(4).to_html())

    def warn_if_poor(self) -> None:
        """Warn of objectives whose leave-one-out R^2 is below 0.5."""
        poor = [
            f"{name} ({model.loo.r2:.2f})"
            for name, model in zip(self.names, self.models, strict=True)
            if not model.loo.r2 >= 0.5
        ]
        if poor:
            other = "the Gaussian-process surrogate (surrogate='gp')"
            remedy = "take more samples" if self.kind == "gp" else f"take more samples or {other}"
            warnings.warn(
                f"surrogates predict points they have not seen poorly (leave-one-out R^2 below "
                f"0.5): {', '.join(poor)}; {remedy}",
                EvaluationWarning,
                stacklevel=3,
            )

    # ------------------------------------------------------------------ storage

    def save(self, path: str | Path) -> Path:
        """Write everything but the space to one ``.npz`` file; nothing in it is executable."""
        path = Path(path)
        arrays: dict[str, Array] = {"xl": self.xl, "xu": self.xu}
        _flatten("support", self.support.state(), arrays)
        everyone = self.models + self.constraint_models
        for i, model in enumerate(everyone):
            _flatten(f"model{i}", model.state(), arrays)
        meta = {
            "format": _FORMAT,
            "kind": self.kind,
            "models": [model.kind for model in everyone],
            "targets": [
                {"name": t.name, "metric": asdict(t.metric), "link": t.link.settings()}
                for t in self.targets
            ],
        }
        with path.open("wb") as file:
            np.savez(file, meta=np.array(json.dumps(meta)), **arrays)  # type: ignore[arg-type]
        return path

    @classmethod
    def load(cls, path: str | Path, *, space: Any = None) -> MergeSurrogate:
        """Read a surrogate back.

        Args:
            path: File written by :meth:`save`.
            space: Search space of the problem, for samplings that need it.

        Raises:
            RunError: It is not such a file.
        """
        path = Path(path)
        try:
            # Opened here, since numpy leaves a broken archive open.
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            meta = json.loads(str(arrays.pop("meta")))
            if meta["format"] != _FORMAT:
                raise RunError(
                    f"{path}: surrogate file of format {meta['format']}, this version reads "
                    f"{_FORMAT}"
                )
            targets = [
                Target(t["name"], Metric(**t["metric"]), link_from(t["link"]))
                for t in meta["targets"]
            ]
            models = [
                _KINDS[kind].restore(_nested(f"model{i}", arrays))
                for i, kind in enumerate(meta["models"])
            ]
            support = Support.restore(_nested("support", arrays))
        # numpy says EOFError of an empty file, BadZipFile of one that was cut short.
        except (OSError, EOFError, BadZipFile, KeyError, ValueError, TypeError) as error:
            raise RunError(f"{path}: not a surrogate file of moofusion ({error})") from error
        return cls(
            targets, models, support, kind=meta["kind"], space=space,
            xl=arrays["xl"], xu=arrays["xu"],
        )  # fmt: skip


def _flatten(prefix: str, state: Mapping[str, Any], into: dict[str, Array]) -> None:
    for key, value in state.items():
        if isinstance(value, Mapping):
            _flatten(f"{prefix}/{key}", value, into)
        else:
            into[f"{prefix}/{key}"] = np.asarray(value, float)


def _nested(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, value in arrays.items():
        if not name.startswith(f"{prefix}/"):
            continue
        *folders, key = name[len(prefix) + 1 :].split("/")
        place = state
        for folder in folders:
            place = place.setdefault(folder, {})
        place[key] = value
    return state
