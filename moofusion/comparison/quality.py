"""How good a set of points is: non-dominated points and the hypervolume they dominate."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Literal, get_args

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from moofusion.algorithms.preferences import partitions_within
from moofusion.comparison.objectives import checked_objectives, lexsorted
from moofusion.errors import ConfigurationError, UnknownNameError

__all__ = [
    "REFERENCE",
    "Backend",
    "Purpose",
    "backend_text",
    "hypervolume",
    "hypervolume_backend",
    "nondominated",
    "reference_point",
    "volume_within",
]

Array = NDArray[np.float64]

#: ``"exact"``: moocore; ``"wfg"``: exact too, by pygmo; ``"approximate"``: moocore, sampled.
Backend = Literal["exact", "wfg", "approximate"]
#: ``"final"``: one value in a table; ``"curve"``: one of hundreds of values of a curve.
Purpose = Literal["final", "curve"]

#: Reference point, per normalized objective.
REFERENCE = 1.1

# Beyond this many points moocore's exact computation in six dimensions is not worth its time.
_EXACT_POINTS_6 = 250
# Points up to which WFG needs, on the least favourable of five front shapes (concave), about a
# second for a final value, or a tenth of one for each value of a curve.
_WFG_POINTS: dict[Purpose, dict[int, int]] = {
    "final": {6: 800, 7: 300, 8: 150, 9: 100, 10: 60},
    "curve": {6: 250, 7: 100, 8: 60, 9: 50, 10: 30},
}
_SAMPLES: dict[Purpose, int] = {"final": 1 << 18, "curve": 1 << 15}


def nondominated(F: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates (minimization).

    Args:
        F: Objectives, shape ``(P, M)``.

    Returns:
        Mask of shape ``(P,)``; of equal points the first is kept.

    Raises:
        ConfigurationError: `F` is not a table, or holds NaN or infinite values.

    Example:
        >>> nondominated([[0, 1], [1, 0], [1, 1]])
        array([ True,  True, False])
    """
    F = checked_objectives(F)
    return np.asarray(moocore.is_nondominated(F), bool) if len(F) else np.zeros(0, bool)


def reference_point(
    reference: str | ArrayLike = REFERENCE, *, n_obj: int, set_size: int | None = None
) -> Array:
    """Reference point of a hypervolume in normalized objectives.

    Args:
        reference: One number for all objectives, M numbers, or ``"ishibuchi"``: ``1 + 1/H``, where
            H is the largest number of partitions whose simplex lattice ``C(H+M-1, M-1)`` has at
            most `set_size` points, so that extreme and inner points of an even front weigh the
            same.
        n_obj: Number of objectives M.
        set_size: Number of points in the sets to compare, for ``"ishibuchi"``.

    Returns:
        Array of shape ``(M,)``.

    Raises:
        ConfigurationError: Wrong number of values, NaN or infinite values, or no set size.
        UnknownNameError: Another word.

    Source: Ishibuchi, Imada, Setoguchi, Nojima 2018, How to specify a reference point in
    hypervolume calculation for fair performance comparison, Section 4.

    Example:
        >>> reference_point(n_obj=2)
        array([1.1, 1.1])
        >>> reference_point("ishibuchi", n_obj=3, set_size=91)
        array([1.08333333, 1.08333333, 1.08333333])
    """
    if isinstance(reference, str):
        if reference != "ishibuchi":
            raise UnknownNameError("reference point", reference, ["ishibuchi"])
        if set_size is None or set_size < 1:
            raise ConfigurationError(
                f"the reference point 'ishibuchi' depends on the set size, got {set_size!r}; "
                "call reference_point('ishibuchi', n_obj=..., set_size=...) once for all sets"
            )
        # A single objective has one lattice point whatever H is: take the coarsest lattice.
        return np.full(n_obj, 1 + 1 / partitions_within(n_obj, set_size))
    try:
        point = np.asarray(reference, float)
    except (TypeError, ValueError):
        point = np.array(np.nan)
    if point.shape not in ((), (n_obj,)) or not np.isfinite(point).all():
        raise ConfigurationError(
            f"reference point must be a finite number or {n_obj} of them, got {reference!r}"
        )
    return np.array(np.broadcast_to(point, (n_obj,)))


def hypervolume_backend(n_obj: int, n_points: int, *, purpose: Purpose = "final") -> Backend:
    """How a hypervolume is computed.

    Exact with moocore up to five objectives, or six and 250 points; beyond, exact with WFG where
    pygmo is installed and the time is bounded (about a second for a final value, a tenth for each
    value of a curve); else approximate. Values of different backends are not compared: decide for
    the largest set and use the answer for all.

    Args:
        n_obj: Number of objectives M.
        n_points: Number of non-dominated points of the largest set.
        purpose: ``"final"`` for a value in a table, ``"curve"`` for the values of a curve.

    Raises:
        UnknownNameError: Another purpose.

    Example:
        >>> hypervolume_backend(4, 10_000), hypervolume_backend(20, 100)
        ('exact', 'approximate')
    """
    if purpose not in get_args(Purpose):
        raise UnknownNameError("purpose of a hypervolume", purpose, get_args(Purpose))
    if n_obj <= 5 or (n_obj == 6 and n_points <= _EXACT_POINTS_6):
        return "exact"
    if n_points <= _WFG_POINTS[purpose].get(n_obj, 0) and _has_pygmo():
        return "wfg"
    return "approximate"


def backend_text(backend: Backend, *, purpose: Purpose = "final") -> str:
    """The backend in words, for the note under a table.

    Example:
        >>> backend_text("exact")
        'exact (moocore)'
    """
    if backend == "exact":
        return "exact (moocore)"
    if backend == "wfg":
        return "exact (WFG of pygmo)"
    power = _SAMPLES[purpose].bit_length() - 1
    return (
        f"approximate (moocore, Rphi-FWE+, 2^{power} samples; relative differences below 1e-3 are "
        "not interpreted)"
    )


def hypervolume(
    F: ArrayLike,
    *,
    reference: ArrayLike = REFERENCE,
    backend: Backend | None = None,
    purpose: Purpose = "final",
) -> float:
    """Volume that a set dominates within the reference point (minimization; more is better).

    Points beyond the reference add nothing. The order of the points does not matter, to the last
    digit. The approximation is deterministic.

    Args:
        F: Normalized objectives, shape ``(P, M)``; may be empty.
        reference: Reference point, one number or M of them (see :func:`reference_point`).
        backend: How to compute; None: :func:`hypervolume_backend` decides for the non-dominated
            points within the reference.
        purpose: ``"curve"`` approximates with 2^15 samples instead of 2^18.

    Returns:
        Volume in units of the product of all objectives, between 0 and the volume of the box
        from the ideal point to the reference.

    Raises:
        ConfigurationError: `F` or the reference holds NaN or infinite values, shapes differ, or
            pygmo is asked for and not installed.
        UnknownNameError: An unknown backend or purpose.

    Source: exact: Guerreiro and Fonseca 2018 (HV3D+, HV4D+), Fonseca, Paquete, Lopez-Ibanez 2006
    (moocore); While, Bradstreet, Barone 2012 (WFG, pygmo); approximate: Deng and Zhang 2019 with
    the point sequence of Lopez-Ibanez 2026 (moocore's ``Rphi-FWE+``).

    Example:
        >>> hypervolume([[0.0, 0.5], [0.5, 0.0]], reference=1.0)
        0.75
    """
    F = checked_objectives(F)
    ref = reference_point(reference, n_obj=F.shape[1])
    inside = F[(F < ref).all(axis=1)]
    inside = inside[nondominated(inside)]
    if backend is None:
        backend = hypervolume_backend(F.shape[1], len(inside), purpose=purpose)
    return volume_within(lexsorted(inside), ref, backend, purpose)


def volume_within(points: Array, ref: Array, backend: Backend, purpose: Purpose) -> float:
    """Hypervolume of checked, sorted, mutually non-dominated points within `ref`.

    The kernel of :func:`hypervolume`, for callers that have prepared their points.

    Args:
        points: Shape ``(P, M)``, as :func:`lexsorted` orders them: sums then do not depend on the
            order in which points were found.
        ref: Reference point, shape ``(M,)``; every point is smaller in every objective.
        backend: How to compute.
        purpose: Decides the number of samples of an approximation.
    """
    if backend not in get_args(Backend):
        raise UnknownNameError("hypervolume backend", backend, get_args(Backend))
    if not len(points):
        return 0.0
    if backend == "exact":
        return float(moocore.hypervolume(points, ref=ref))
    if backend == "approximate":
        samples = _SAMPLES[purpose]
        return float(moocore.hv_approx(points, ref=ref, nsamples=samples, method="Rphi-FWE+"))
    if not _has_pygmo():
        raise ConfigurationError(
            "the hypervolume backend 'wfg' needs pygmo, which is not installed; install it "
            "('pip install pygmo') or leave the backend to be chosen"
        )
    pygmo = importlib.import_module("pygmo")
    return float(pygmo.hypervolume(points).compute(ref, hv_algo=pygmo.hvwfg()))


def _has_pygmo() -> bool:
    return importlib.util.find_spec("pygmo") is not None
