"""Commands that the report shows: export a model, write the report again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["export_command", "preference_text", "report_command", "router_command"]


def export_command(
    study: str | Path,
    *,
    problem: str,
    preference: str,
    algorithms: Sequence[str] = (),
    budget: str | None = None,
    to: str = "OUT",
) -> str:
    """The command that exports the model which a study recommends for a preference.

    Args:
        study: The store (SQLite) of the study.
        problem: Title of the problem.
        preference: Importance of the objectives (see :func:`preference_text`).
        algorithms: Take models of these algorithms only.
        budget: Take models of runs under this budget only.
        to: Folder to write.

    Example:
        >>> export_command("study.db", problem="vision4", preference="mnist=0.7,animals=0.3")
        'moofusion export study.db --problem vision4 --preference mnist=0.7,animals=0.3 --to OUT'
    """
    words = ["moofusion", "export", str(study), "--problem", problem, "--preference", preference]
    for algorithm in algorithms:
        words += ["--algorithm", algorithm]
    if budget is not None:
        words += ["--budget", budget]
    return shlex.join([*words, "--to", to])


def preference_text(weights: Mapping[str, float]) -> str:
    """A preference as it is typed; objectives without weight are left out.

    Example:
        >>> preference_text({"a": 0.7, "b": 0.0, "c": 0.3})
        'a=0.7,c=0.3'
    """
    return ",".join(f"{name}={weight:g}" for name, weight in weights.items() if weight)


def router_command(file: str | Path, *, preference: str, to: str = "OUT") -> str:
    """The command that exports what a trained router makes of a preference.

    Example:
        >>> router_command("router.safetensors", preference="a=0.7,b=0.3")
        'moofusion export --router router.safetensors --preference a=0.7,b=0.3 --to OUT'
    """
    words = ["moofusion", "export", "--router", str(file), "--preference", preference, "--to", to]
    return shlex.join(words)


def report_command(study: str | Path, out: str | Path) -> str:
    """The command that writes the report again.

    Example:
        >>> report_command("study.db", "report")
        'moofusion report study.db --out report'
    """
    return shlex.join(["moofusion", "report", str(study), "--out", str(out)])
