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
    "reach",
    "sampled_sums",
]

Array = NDArray[np.float64]

# Sums of the coefficients at which the uniform merge is tried, as far as the bounds allow.
_PILOT = (1.0, 1.5, 2.0)
# Without a pilot, and at least with one, coefficients sum to at most this.
_LEAST_REACH = 1.25
_CANDIDATES = 1024
# Share of candidates with slightly negative coefficients, where the bounds allow any.
_NEGATIVE = 0.1


def default_samples(n_var: int, budget: int) -> int:
    """Points of the design: a quarter more than parameters, but at most half of the budget.

    Example:
        >>> default_samples(2, 40), default_samples(8, 60)
        (8, 30)
    """
    return max(min(-(-5 * n_parameters(n_var) // 4), -(-budget // 2)), min(n_var + 1, budget))


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
    longest = K * float(np.min(problem.xu))
    sums = [s for s in _PILOT if s <= longest + 1e-9 or s == 1.0]
    rows = [np.full((1, K), 1 / K), np.eye(K), np.zeros((1, K))]
    rows += [np.full((1, K), s / K) for s in sums[1:]]
    totals = np.array([1.0, *[np.nan] * K, 0.0, *sums[1:]])
    X = space.uniform(np.vstack(rows))
    _, first = np.unique(X.round(9), axis=0, return_index=True)
    keep = np.sort(first)
    return X[keep], totals[keep]


def reach(sums: Array, F: Array) -> float:
    """Largest coefficient sum worth sampling, from merges along the uniform direction.

    Beyond the best of them, the sum at which half of what it gains over the worst is lost again;
    where nothing is lost, a quarter more than the longest.

    Args:
        sums: Coefficient sums, shape ``(P,)``.
        F: Objectives, shape ``(P, M)``.
    """
    if len(sums) < 3:
        return _LEAST_REACH + 0.25
    order = np.argsort(sums)
    sums, F = sums[order], F[order]
    width = np.ptp(F, axis=0)
    gain = ((F.max(axis=0) - F) / np.where(width > 0, width, 1.0)).mean(axis=1)
    best = int(gain.argmax())
    half = gain[best] / 2
    for i in range(best + 1, len(sums)):
        if gain[i] < half:
            step = (gain[i - 1] - half) / (gain[i - 1] - gain[i])
            return max(float(sums[i - 1] + step * (sums[i] - sums[i - 1])), _LEAST_REACH)
    return max(1.25 * float(sums[-1]), _LEAST_REACH)


def candidate_points(
    problem: Any, largest_sum: float, rng: np.random.Generator, *, count: int = _CANDIDATES
) -> Array:
    """Candidates ``c = s d``, s in (0, largest_sum], d ~ Dirichlet(1).

    They come from a scrambled Sobol sequence. Where bounds allow negative coefficients a tenth of
    the candidates have some. In spaces of several groups every group mixes the common draw with
    one of its own. On a problem without merge coefficients: a Sobol sequence of the bounds.
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
    L = (largest_sum * cube[:, :1] * direction)[:, None, :]
    if float(np.min(problem.xl)) < 0:
        some = rng.random(size) < _NEGATIVE
        L[some] -= rng.uniform(0, 0.2, (int(some.sum()), 1, K))
    if G > 1:
        own = largest_sum * cube[:, :1, None] * rng.dirichlet(np.ones(K), size=(size, G))
        mix = rng.uniform(0, 1, (size, 1, 1))
        L = (1 - mix) * L + mix * own
    return np.asarray(space.decision(L))


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


def sampled_sums(problem: Any, X: Array) -> Array:
    """Largest coefficient sum of a group, for each decision vector; NaN without coefficients."""
    space = getattr(problem, "space", None)
    if space is None:
        return np.full(len(X), np.nan)
    return np.asarray(space.coefficients(X).sum(axis=2).max(axis=1))
