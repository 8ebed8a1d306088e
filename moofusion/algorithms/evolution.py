"""pymoo's own algorithms by name, with the traps of pymoo 0.6.2 handled.

Left out: CMOPSO (equal seeds give different runs), MOPSO-CD (returns infeasible models, overruns
small budgets), plain MOEA/D (one candidate at a time, cannot be copied), and those that need what
a merge problem has not: a changing problem (DNSGA-II, KGB-DMOEA) or a decision maker's aspirations
(R-NSGA-II and -III, PI-NSGA-II).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from pymoo.core.algorithm import Algorithm
from pymoo.operators.sampling.rnd import FloatRandomSampling
from pymoo.operators.selection.tournament import TournamentSelection

from moofusion.algorithms.entry import AlgorithmEntry
from moofusion.algorithms.preferences import partitions_within, simplex_lattice
from moofusion.algorithms.sampling import CoefficientSampling
from moofusion.errors import ConfigurationError, UnknownNameError

__all__ = ["EVOLUTION", "start_sampling"]


def start_sampling(name: str) -> Any:
    """Where a population starts: ``"coefficients"`` or ``"box"``."""
    if name == "coefficients":
        return CoefficientSampling()
    if name == "box":
        return FloatRandomSampling()
    raise UnknownNameError("sampling", name, ["coefficients", "box"])


def _directions(problem: Any, pop_size: int) -> Any:
    """Reference directions on the simplex, as many as fit the population."""
    return simplex_lattice(problem.n_obj, partitions_within(problem.n_obj, pop_size))


def _require_several(name: str, problem: Any) -> None:
    if problem.n_obj < 2:
        raise ConfigurationError(f"{name} needs at least two objectives; use nsga2 for one")


def _violation_then_random(
    pop: Any, P: Any, random_state: np.random.Generator | None = None, **kwargs: Any
) -> Any:
    """Tournament by constraint violation, ties by the algorithm's own generator.

    pymoo 0.6.2 draws these ties from the operating system on constrained problems, so that equal
    seeds give different runs.
    """
    assert random_state is not None
    violation = np.array([[pop[a].CV[0], pop[b].CV[0]] for a, b in P]).reshape(-1, 2)
    coin = random_state.integers(0, 2, len(P))
    better = np.where(violation[:, 0] == violation[:, 1], coin, violation.argmin(axis=1))
    return P[np.arange(len(P)), better][:, None].astype(int)


def _nsga2(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from pymoo.algorithms.moo.nsga2 import NSGA2

    return NSGA2(pop_size=pop_size, sampling=start_sampling(sampling))


def _nsga3(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from pymoo.algorithms.moo.nsga3 import NSGA3

    return NSGA3(
        _directions(problem, pop_size),
        pop_size=pop_size,
        sampling=start_sampling(sampling),
        selection=TournamentSelection(func_comp=_violation_then_random),
    )


def _unsga3(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from pymoo.algorithms.moo.unsga3 import UNSGA3

    options: dict[str, Any] = {}
    if problem.has_constraints():
        options["selection"] = TournamentSelection(func_comp=_violation_then_random)
    directions = _directions(problem, pop_size)
    return UNSGA3(directions, pop_size=pop_size, sampling=start_sampling(sampling), **options)


def _agemoea2(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from pymoo.algorithms.moo.age2 import AGEMOEA2

    _require_several("agemoea2", problem)
    if importlib.util.find_spec("numba") is None:
        raise ConfigurationError(
            "agemoea2 needs numba, which is not installed: pip install 'moofusion[agemoea2]'"
        )
    return AGEMOEA2(pop_size=pop_size, sampling=start_sampling(sampling))


def _spea2(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from pymoo.algorithms.moo.spea2 import SPEA2

    return SPEA2(pop_size=pop_size, sampling=start_sampling(sampling))


def _rvea(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from moofusion.algorithms.rvea import RVEA

    _require_several("rvea", problem)
    directions = _directions(problem, pop_size)
    return RVEA(directions, pop_size=pop_size, sampling=start_sampling(sampling))


def _smsemoa(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from pymoo.algorithms.moo.sms import SMSEMOA

    _require_several("smsemoa", problem)
    if problem.n_obj > 4:
        raise ConfigurationError(
            f"smsemoa recomputes hypervolume contributions naively and is unusable above 4 "
            f"objectives; this problem has {problem.n_obj}"
        )
    return SMSEMOA(pop_size=pop_size, sampling=start_sampling(sampling))


def _moead(
    problem: Any, pop_size: int = 20, n_neighbors: int = 5, sampling: str = "coefficients"
) -> Algorithm:
    from pymoo.algorithms.moo.moead import ParallelMOEAD

    _require_several("moead", problem)
    if problem.has_constraints():
        raise ConfigurationError("moead cannot handle constraints; use nsga2 or nsga3")
    directions = _directions(problem, pop_size)
    return ParallelMOEAD(
        directions, n_neighbors=min(n_neighbors, len(directions)), sampling=start_sampling(sampling)
    )


def _agemoea(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from pymoo.algorithms.moo.age import AGEMOEA

    _require_several("agemoea", problem)
    return AGEMOEA(pop_size=pop_size, sampling=start_sampling(sampling))


def _ctaea(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from pymoo.algorithms.moo.ctaea import CTAEA

    _require_several("ctaea", problem)
    return CTAEA(_directions(problem, pop_size), sampling=start_sampling(sampling))


def _gde3(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from pymoo.algorithms.moo.gde3 import GDE3

    return GDE3(pop_size=pop_size, sampling=start_sampling(sampling))


def _nsder(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from pymoo.algorithms.moo.nsder import NSDER

    directions = _directions(problem, pop_size)
    return NSDER(directions, pop_size=pop_size, sampling=start_sampling(sampling))


def _omni(problem: Any, pop_size: int = 20, sampling: str = "coefficients") -> Algorithm:
    from pymoo.algorithms.moo.omni import OmniOptimizer

    return OmniOptimizer(pop_size=pop_size, sampling=start_sampling(sampling))


EVOLUTION: dict[str, AlgorithmEntry] = {
    "nsga2": AlgorithmEntry(_nsga2, "NSGA-II (Deb et al. 2002)"),
    "nsga3": AlgorithmEntry(_nsga3, "NSGA-III (Deb and Jain 2014)"),
    "unsga3": AlgorithmEntry(_unsga3, "U-NSGA-III (Seada and Deb 2016)"),
    "agemoea2": AlgorithmEntry(_agemoea2, "AGE-MOEA-II (Panichella 2022)"),
    "spea2": AlgorithmEntry(_spea2, "SPEA2 (Zitzler, Laumanns, Thiele 2001)"),
    "rvea": AlgorithmEntry(_rvea, "RVEA (Cheng et al. 2016)"),
    "smsemoa": AlgorithmEntry(_smsemoa, "SMS-EMOA (Beume et al. 2007), up to 4 objectives"),
    "moead": AlgorithmEntry(_moead, "MOEA/D, a generation at a time (Zhang and Li 2007)"),
    "agemoea": AlgorithmEntry(_agemoea, "AGE-MOEA (Panichella 2019)"),
    "ctaea": AlgorithmEntry(_ctaea, "C-TAEA, two archives for constraints (Li et al. 2019)"),
    "gde3": AlgorithmEntry(_gde3, "GDE3, differential evolution (Kukkonen and Lampinen 2005)"),
    "nsder": AlgorithmEntry(_nsder, "NSDE-R, differential evolution (Reddy, Dulikravich 2019)"),
    "omni": AlgorithmEntry(_omni, "Omni-optimizer (Deb and Tiwari 2008)"),
}
