"""Where MAP samples: anchors, a pilot along the uniform direction, and a D-optimal rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from moofusion.surrogates.features import n_parameters, quadratic_features

__all__ = [
    "anchor_points",
    "candidate_points",
    "d_optimal",
    "default_samples",
    "shell",
]

Array = NDArray[np.float64]

# Sums of the coefficients at which the uniform merge is tried, as far as the bounds allow.
_PILOT = (1.0, 1.6)
# The best sum is never taken to be shorter than this.
_LEAST_BEST = 0.6
# The best sum may lie beyond the longest merge of the pilot by this factor.
_BEYOND = 1.5
# Relative distance from the top of a parabola at which a tenth of it is lost (0.3 squared).
_LOSS = 0.3
_CANDIDATES = 1024
# Share of candidates with slightly negative coefficients, where the bounds allow any.
_NEGATIVE = 0.1


def default_samples(n_var: int, budget: int | None, *, part: int = 2) -> int:
    """Points of the design: as many as parameters, but at most a `part`-th of the budget.

    Example:
        >>> default_samples(2, 40), default_samples(8, 60)
        (6, 30)
    """
    if budget is None:
        return max(n_parameters(n_var), n_var + 3)
    return max(min(n_parameters(n_var), -(-budget // part)), min(n_var + 3, budget))


def anchor_points(problem: Any) -> tuple[Array, Array]:
    """Uniform merges, experts and base; and the coefficient sum of each (NaN for the experts).

    The uniform merge 1/K comes first, then the experts, the base and the longer uniform merges,
    so that a short design keeps what tells most. On a problem without merge coefficients: the
    middle of the bounds.
    """
    space = getattr(problem, "space", None)
    if space is None:
        return ((problem.xl + problem.xu) / 2)[None], np.array([np.nan])
    K = space.n_experts
    longest = K * float(np.min(problem.xu[: space.n_coefficients]))
    sums = [s for s in _PILOT if s <= longest + 1e-9 or s == 1.0]
    rows = [np.full((1, K), 1 / K), np.eye(K), np.zeros((1, K))]
    rows += [np.full((1, K), s / K) for s in sums[1:]]
    totals = np.array([1.0, *[np.nan] * K, 0.0, *sums[1:]])
    X = space.uniform(np.vstack(rows))
    _, first = np.unique(X.round(9), axis=0, return_index=True)
    keep = np.sort(first)
    return X[keep], totals[keep]


def shell(sums: Array, F: Array) -> tuple[float, float]:
    """Interval of coefficient sums around the best one, from merges along the uniform direction.

    A parabola through the base follows the mean gain over the worst merge; the sums at which up to
    a tenth of its maximum is lost are kept. Shorter and longer merges rarely stand on a front.
    Where the gain does not bend down yet, half as far again as the pilot takes the place of the
    maximum; without a pilot, a sum of one.

    Args:
        sums: Coefficient sums, shape ``(P,)``.
        F: Objectives, shape ``(P, M)``.

    Example:
        >>> sums = np.array([0.0, 1.0, 1.6])
        >>> shell(sums, (1 - sums[:, None] / 1.2) ** 2)
        (0.84, 1.56)
    """
    best = 1.0
    if len(sums) >= 3:
        width = np.ptp(F, axis=0)
        gain = ((F.max(axis=0) - F) / np.where(width > 0, width, 1.0)).mean(axis=1)
        gain = gain - gain[sums.argmin()]
        rows = np.stack([sums, sums**2], axis=1)
        slope, bend = np.linalg.lstsq(rows, gain, rcond=None)[0]
        if bend < 0:
            best = float(-slope / (2 * bend))
        else:
            best = np.inf if slope > 0 else float(sums[gain.argmax()])
        best = float(np.clip(best, _LEAST_BEST, _BEYOND * sums.max()))
    return round((1 - _LOSS) * best, 9), round((1 + _LOSS) * best, 9)


def candidate_points(
    problem: Any,
    sums: tuple[float, float],
    rng: np.random.Generator,
    *,
    count: int = _CANDIDATES,
) -> Array:
    """Candidates ``c = s d``, s uniform between the two `sums`, d ~ Dirichlet(1).

    They come from a scrambled Sobol sequence. Where bounds allow negative coefficients a tenth of
    the candidates have some. In spaces of several groups every group mixes the common draw with
    one of its own. Parameters of the merge method that are searched are drawn uniformly. On a
    problem without merge coefficients: a Sobol sequence of the bounds.
    """
    space = getattr(problem, "space", None)
    size = 1 << (count - 1).bit_length()
    if space is None:
        cube = qmc.Sobol(problem.n_var, rng=rng).random(size)
        return np.asarray(problem.xl + cube * (problem.xu - problem.xl))
    G, K = space.n_groups, space.n_experts
    cube = qmc.Sobol(K + 1, rng=rng).random(size)
    # Exponential variates scaled to sum one are Dirichlet(1).
    exponential = -np.log1p(-np.clip(cube[:, 1:], 0, 1 - 1e-12))
    direction = exponential / np.maximum(exponential.sum(axis=1, keepdims=True), 1e-12)
    length = sums[0] + (sums[1] - sums[0]) * cube[:, :1]
    L = (length * direction)[:, None, :]
    if float(np.min(problem.xl[: space.n_coefficients])) < 0:
        some = rng.random(size) < _NEGATIVE
        L[some] -= rng.uniform(0, 0.2, (int(some.sum()), 1, K))
    if G > 1:
        own = length[:, :, None] * rng.dirichlet(np.ones(K), size=(size, G))
        mix = rng.uniform(0, 1, (size, 1, 1))
        L = (1 - mix) * L + mix * own
    return np.asarray(space.scattered(space.decision(L), rng))


def d_optimal(candidates: Array, chosen: Array, count: int, *, ridge: float = 1e-3) -> Array:
    """Greedy D-optimal choice for a quadratic: each point adds most to ``log det(F'F + ridge)``.

    By the determinant lemma that is the candidate of the largest leverage
    ``f' (F'F + ridge)^-1 f``; a rank-one update follows each choice (Fedorov 1972).

    Args:
        candidates: Shape ``(C, n_var)``.
        chosen: Points that are there already, shape ``(P, n_var)``.
        count: How many to add.
        ridge: Keeps the determinant positive while there are fewer points than parameters.

    Returns:
        The added points, shape ``(count, n_var)``; fewer if there are not enough candidates.
    """
    everything = np.vstack([candidates, chosen])
    low, high = everything.min(axis=0), everything.max(axis=0)
    width = np.where(high > low, (high - low) / 2, 1.0)
    rows = quadratic_features((candidates - (low + high) / 2) / width)
    present = quadratic_features((chosen - (low + high) / 2) / width)
    inverse = np.linalg.inv(present.T @ present + ridge * np.eye(rows.shape[1]))
    leverage = np.einsum("pi,pi->p", rows @ inverse, rows)
    picked: list[int] = []
    for _ in range(min(count, len(candidates))):
        leverage[picked] = -np.inf
        best = int(leverage.argmax())
        picked.append(best)
        along = inverse @ rows[best]
        pivot = 1 + float(rows[best] @ along)
        inverse -= np.outer(along, along) / pivot
        leverage = leverage - (rows @ along) ** 2 / pivot
    return np.asarray(candidates[picked])
