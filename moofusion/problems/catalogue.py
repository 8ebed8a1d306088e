"""The catalogue of ready-made problems: one TOML file each, shipped with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.problems.merge_problem import MergeProblem
from moofusion.problems.spec import ProblemSpec, read_spec

__all__ = ["get_problem", "list_problems", "problem_spec"]

_PACKAGE = Path(__file__).resolve().parent.parent


def list_problems() -> dict[str, Path]:
    """Names and files of the catalogue.

    Example:
        >>> "vision4" in list_problems()
        True
    """
    # Installed, the files lie inside the package; in a checkout, beside it.
    for folder in (_PACKAGE / "catalogue", _PACKAGE.parent / "problems"):
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.toml"))}
    return {}


def problem_spec(
    problem: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    experts: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ProblemSpec:
    """Validated contents of a problem file; see :func:`get_problem`.

    Example:
        >>> problem_spec("vision4", overrides={"space.upper": 0.8}).space.upper
        0.8
    """
    known = list_problems()
    path = known.get(str(problem), Path(problem).expanduser())
    if path.suffix == ".toml" and not path.exists():
        raise ConfigurationError(f"there is no problem file {path}")
    if path.suffix != ".toml":
        raise UnknownNameError(
            "problem", problem, known, hint="A path to a .toml file is also accepted."
        )
    cuts = {k: v for k, v in (("tasks", tasks), ("experts", experts)) if v is not None}
    return read_spec(path, {**(overrides or {}), **cuts})


def get_problem(
    problem: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    experts: Sequence[str] | None = None,
    space: str | Mapping[str, Any] | None = None,
    merge: str | Mapping[str, Any] | None = None,
    objective: str | None = None,
    device: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> MergeProblem:
    """A ready-made problem, its models loaded.

    Args:
        problem: Name in the catalogue, or path of a TOML file.
        tasks: Keep only these tasks, and the experts of the same names.
        experts: Keep only these experts.
        space: Name of a search space, or a table ``{"kind": name, **options}``.
        merge: Name of a merge method, or a table ``{"method": name, **parameters}``.
        objective: Metric that every task optimizes (``"accuracy"``, ``"macro_f1"``, ``"loss"``);
            objectives with one metric alone (``sparsity``) stay as they are.
        device: Where to evaluate.
        overrides: Any other value of the file, by dotted key (``{"tasks.mnist.batch_size": 100}``).
        **kwargs: Passed to :class:`MergeProblem`.

    Raises:
        UnknownNameError: There is no such problem, task or expert.
        ConfigurationError: There is no such file, or a key or value in it is wrong.

    Example:
        >>> problem = get_problem("vision4", tasks=["mnist", "fashion"])
        >>> problem.n_var, problem.n_obj
        (2, 2)
    """
    changes: dict[str, Any] = {}
    if space is not None:
        changes["space"] = {"kind": space} if isinstance(space, str) else dict(space)
    if merge is not None:
        changes["merge"] = {"method": merge} if isinstance(merge, str) else dict(merge)
    # After the tables, so that {"space.upper": 2} still finds its place.
    changes |= overrides or {}
    if device is not None:
        changes["device"] = device
    spec = problem_spec(problem, tasks=tasks, experts=experts, overrides=changes)
    if objective is not None:
        names = [t.name for t in spec.tasks if "objective" in type(t).model_fields]
        changes |= {f"tasks.{name}.objective": objective for name in names}
        spec = problem_spec(problem, tasks=tasks, experts=experts, overrides=changes)
    return spec.build(**kwargs)
