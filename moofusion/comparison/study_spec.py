"""Study files: problems, algorithms, seeds and budget in a few lines of TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moofusion.comparison.study import FRONT_SIZE, Study
from moofusion.errors import ConfigurationError, UnknownNameError, key_message
from moofusion.problems import get_problem

__all__ = ["read_study"]


class _ProblemEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    problem: str
    title: str | None = None
    tasks: list[str] | None = None
    experts: list[str] | None = None
    space: str | dict[str, Any] | None = None
    merge: str | dict[str, Any] | None = None
    objective: str | None = None
    device: str | None = None
    overrides: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"problem": value} if isinstance(value, str) else value


class _StudyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    problems: list[_ProblemEntry] = Field(min_length=1)
    algorithms: list[str] = Field(min_length=1)
    seeds: int | list[int] = 5
    evaluations: int | None = None
    cost: float | None = None
    seconds: float | None = None
    store: str | None = None
    front_size: int = FRONT_SIZE
    controls: bool = True


def read_study(
    path: str | Path, *, store: str | Path | None = None, only: str | None = None
) -> Study:
    r"""The study that a TOML file describes, ready to run.

    Args:
        path: The file. ``problems`` are names, or tables with ``problem`` and any of ``title``,
            ``tasks``, ``experts``, ``space``, ``merge``, ``objective``, ``device``, ``overrides``;
            then ``algorithms``, ``seeds``, and one of ``evaluations``, ``cost``, ``seconds``; with
            ``controls = false`` random search and rewarded soup run only where they are listed.
        store: SQLite file, where the file names none.
        only: Title of the one problem that is wanted; the others are not measured.

    Raises:
        ConfigurationError: The file cannot be read, or a key or value is wrong.
        UnknownNameError: No problem has that title.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "study.toml"
        ...     _ = file.write_text('problems = [{problem = "vision4", tasks = ["objects"]}]\n'
        ...                         'algorithms = ["random", "soup"]\nseeds = 1\nevaluations = 5\n')
        ...     len(read_study(file, store=Path(folder) / "study.db").cells())
        2
    """
    path = Path(path)
    try:
        found = _StudyFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(f"study file {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"study file {path} is not valid TOML: {error}") from error
    except ValidationError as error:
        places = "; ".join(key_message(item) for item in error.errors())
        known = ", ".join(_StudyFile.model_fields)
        raise ConfigurationError(f"study file {path}: {places}. Known keys: {known}") from error
    problems = []
    for entry in found.problems:
        options = entry.model_dump(exclude={"problem", "title"})
        problem = get_problem(entry.problem, **options)
        problem.title = entry.title or problem.title
        problems.append(problem)
    titles = [problem.title for problem in problems]
    if only is not None and only not in titles:
        raise UnknownNameError("problem of the study", only, titles)
    return Study(
        [problem for problem in problems if only in (None, problem.title)],
        found.algorithms,
        seeds=found.seeds,
        evaluations=found.evaluations,
        cost=found.cost,
        seconds=found.seconds,
        store=found.store or store or "study.db",
        front_size=found.front_size,
        controls=found.controls,
    )
