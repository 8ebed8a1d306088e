"""Choosing one point of a front: by preference, by trade-off, under conditions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pymoo.decomposition.asf import ASF

from moofusion.algorithms.preferences import parse_preference
from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.tasks import Metric

__all__ = ["METHODS", "choose", "meeting"]

Method = Literal["weighted", "asf", "pseudo-weights", "knee"]
METHODS: tuple[str, ...] = get_args(Method)

_CONDITION = re.compile(r"(.+?)\s*(>=|<=)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(%?)")

# Objectives that a preference leaves out still break ties in the achievement function.
_SMALL_WEIGHT = 1e-3


def choose(
    F: ArrayLike,
    preference: str | Mapping[str, float] | Sequence[float] | None = None,
    *,
    names: Sequence[str],
    by: str = "weighted",
    among: ArrayLike | None = None,
) -> int:
    """Index of the recommended point.

    Args:
        F: Normalized objectives, shape ``(P, M)``; 0 is the best anchor, 1 the worst.
        preference: Importance of the objectives (see :func:`parse_preference`); equal if None.
        names: Names of the M objectives.
        by: ``"weighted"``: smallest weighted sum, the point that maximises the preference on
            measured values. ``"asf"``: smallest weighted maximum (achievement scalarization of
            Wierzbicki 1980), which also reaches the hollow parts of a front.
            ``"pseudo-weights"``: the point whose relative distances to the worst of the front are
            closest to the preference (Deb 2001). ``"knee"``: the point that bulges most below the
            plane through the extremes (Das 1999); takes no preference.
        among: Which points may be chosen, shape ``(P,)`` (see :func:`meeting`); all if None. The
            others do not count for the knee and the pseudo-weights either.

    Raises:
        UnknownNameError: An unknown method or objective.
        ConfigurationError: An empty front, a wrong preference, or one given to ``"knee"``.

    Example:
        >>> front = [[0.0, 1.0], [0.2, 0.2], [1.0, 0.0]]
        >>> choose(front, names=["a", "b"], by="knee")
        1
        >>> choose(front, "a=0.9,b=0.1", names=["a", "b"])
        0
    """
    if by not in METHODS:
        raise UnknownNameError("way to choose", by, METHODS)
    F = np.atleast_2d(np.asarray(F, float))
    if F.size == 0 or F.shape[1] != len(names):
        raise ConfigurationError(
            f"nothing to choose from: expected objectives of shape (P >= 1, {len(names)}), "
            f"got {F.shape}"
        )
    if among is not None:
        indices = np.flatnonzero(among)
        return int(indices[choose(F[indices], preference, names=names, by=by)])
    if by == "knee":
        if preference is not None:
            raise ConfigurationError("the knee is chosen without a preference; leave one out")
        return int(_front_scaled(F).sum(axis=1).argmin())
    weights = parse_preference(
        preference if preference is not None else np.ones(len(names)).tolist(), names
    )
    if by == "weighted":
        return _best(F @ weights, F)
    if by == "asf":
        safe = np.maximum(weights, _SMALL_WEIGHT)
        # pymoo's ASF divides by its weights: important objectives need small ones.
        scores = ASF().do(F - F.min(axis=0), 1 / safe)
        return _best(np.asarray(scores, float).ravel(), F)
    distance = 1 - _front_scaled(F)
    total = distance.sum(axis=1, keepdims=True)
    pseudo = np.divide(distance, total, out=np.full_like(distance, 1 / F.shape[1]), where=total > 0)
    return _best(np.abs(pseudo - weights).sum(axis=1), F)


def meeting(
    conditions: str, values: NDArray[np.float64], *, names: Sequence[str], metrics: Sequence[Metric]
) -> NDArray[np.bool_]:
    """Which points meet conditions on their measured metrics.

    Args:
        conditions: Bounds joined by commas, ``"mnist>=0.95,perplexity<=20"``; ``"mnist>=95%"`` is
            the same as 0.95.
        values: Metric values, shape ``(P, M)``.
        names: Names of the M objectives.
        metrics: Their metrics.

    Returns:
        Array of shape ``(P,)``.

    Raises:
        UnknownNameError: An unknown objective.
        ConfigurationError: A condition cannot be read, or no point meets all of them; the message
            says how far each can be met.

    Example:
        >>> from moofusion.tasks.base import ACCURACY
        >>> values = np.array([[0.9, 0.6], [0.8, 0.7]])
        >>> meeting("a>=85%", values, names=["a", "b"], metrics=[ACCURACY] * 2)
        array([ True, False])
    """
    kept = np.ones(len(values), bool)
    reached = []
    for part in conditions.split(","):
        found = _CONDITION.fullmatch(part.strip())
        if found is None:
            raise ConfigurationError(
                f"condition {part.strip()!r}: expected a form such as {names[0]}>=0.9"
            )
        name, sign, number, percent = found.groups()
        if name not in names:
            raise UnknownNameError("objective in the conditions", name, names)
        column = list(names).index(name)
        bound = float(number) / (100 if percent else 1)
        ours, text = values[:, column], metrics[column].text
        kept &= ours >= bound if sign == ">=" else ours <= bound
        ends = f"{text(float(ours.min()))} to {text(float(ours.max()))}"
        reached.append(f"{name} {sign} {text(bound)} (the front has {ends})")
    if not kept.any():
        raise ConfigurationError(f"no model of the front meets {' and '.join(reached)}; relax them")
    return kept


def _best(score: NDArray[np.float64], F: NDArray[np.float64]) -> int:
    """Smallest score; ties go to the smaller sum of all objectives, then to the first."""
    ties = np.flatnonzero(score <= score.min() + 1e-12)
    return int(ties[F[ties].sum(axis=1).argmin()])


def _front_scaled(F: NDArray[np.float64]) -> NDArray[np.float64]:
    """Objectives scaled by the front's own extent; a constant objective becomes 0."""
    low, spread = F.min(axis=0), np.ptp(F, axis=0)
    return np.asarray((F - low) / np.where(spread > 0, spread, 1.0))
