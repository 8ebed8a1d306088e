"""What a problem file may say: validated, overridable, turned into pool, tasks and space."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import Field, ValidationError, model_validator

from moofusion.errors import ConfigurationError, UnknownNameError, key_message
from moofusion.merging import check_search, make_method
from moofusion.problems.constraints import Constraint
from moofusion.problems.evaluator import Evaluator
from moofusion.problems.merge_problem import MergeProblem, _open_evaluator
from moofusion.problems.task_spec import (
    BASE_KINDS,
    TASK_KINDS,
    Table,
    TaskSpec,
)

__all__ = ["ProblemSpec", "apply_overrides", "read_spec"]


# Members of unions, which pydantic reports among the keys.
_SHOULD = re.compile(r"key ('[^']*')( should .*)", re.DOTALL)
_UNION_MEMBER = re.compile(r"^(str|float)$|\[")


class PoolSpec(Table):
    """Where the models come from."""

    base: str
    experts: dict[str, str] = Field(min_length=1)
    heads: Literal["auto", "none"] | list[str] = "auto"
    allow_pickle: bool = False


class SpaceSpec(Table):
    """Search space of the coefficients."""

    kind: str = "task-wise"
    select: str | list[str] | None = None
    granularity: str | None = None
    lower: float | None = None
    upper: float | None = None
    controls: int | None = None
    scale: float | None = None
    static: float | list[float] | None = None


class MergeSpec(Table):
    """Merge method and its parameters; what is not given is the method's own default."""

    method: str = "linear"
    density: float | None = None
    scope: str | None = None
    seed: int | None = None
    elect: bool | None = None
    epsilon: float | None = None
    gamma: float | None = None
    rank: int | float | None = None
    of: str | None = None
    norms: str | None = None
    samples: int | None = None
    floor: float | None = None
    alpha: float | None = None
    search: list[str] | dict[str, tuple[bool | int | float | str, ...]] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            method = make_method(self.model_dump(exclude_none=True, exclude={"search"}))
            check_search(method, self.search or ())
        except ConfigurationError as error:
            raise ValueError(str(error)) from error  # pydantic adds the key and the value
        return self


class ConstraintSpec(Table):
    """A bound on a measured metric."""

    task: str
    at_least: float | None = None
    at_most: float | None = None
    metric: str | None = None
    relative_to: str | None = None


class ProblemSpec(Table):
    """A whole problem file.

    Example:
        >>> from moofusion.problems import problem_spec
        >>> spec = problem_spec("vision4", tasks=["animals", "objects"])
        >>> list(spec.pool.experts), spec.space.kind
        (['animals', 'objects'], 'task-wise')
    """

    title: str
    description: str = ""
    pool: PoolSpec
    tasks: list[TaskSpec] = Field(min_length=1)
    space: SpaceSpec = SpaceSpec()
    merge: MergeSpec = MergeSpec()
    constraints: list[ConstraintSpec] = Field(default_factory=list)
    device: str = "auto"
    folder: str = Field(default=".", description="Folder that relative paths start from.")

    def locate(self, source: str) -> str:
        """A path of the file made absolute; ``zoo:`` paths and hub ids resolved or left alone."""
        if source.startswith("zoo:"):
            from moofusion.zoo.folders import checked_folder

            name, _, rest = source.removeprefix("zoo:").partition("/")
            return str(checked_folder(name, root=self.folder) / rest)
        path = Path(source).expanduser()
        beside = Path(self.folder) / path
        return str(beside) if not path.is_absolute() and beside.exists() else str(path)

    def open(self) -> Evaluator:
        """Read models and data."""
        from moofusion.weights import ModelPool

        pool = ModelPool(
            self.locate(self.pool.base),
            {name: self.locate(source) for name, source in self.pool.experts.items()},
            heads=self.pool.heads,
            allow_pickle=self.pool.allow_pickle,
        )
        tasks = [task.build(self) for task in self.tasks]
        space = self.space.model_dump(exclude_none=True)
        merge = self.merge.model_dump(exclude_none=True)
        return _open_evaluator(pool, tasks, space, merge, self.device)

    def build(self, **kwargs: Any) -> MergeProblem:
        """The problem, its models loaded."""
        constraints = [Constraint(**c.model_dump()) for c in self.constraints]
        problem = MergeProblem.from_recipe(
            self.open, constraints=constraints, title=self.title, **kwargs
        )
        problem.spec = self
        return problem


def read_spec(path: Path, overrides: Mapping[str, Any] | None = None) -> ProblemSpec:
    """Read and validate a problem file.

    Args:
        path: TOML file.
        overrides: Values to replace, by dotted key (see :func:`apply_overrides`).

    Raises:
        ConfigurationError: The file cannot be read, or a key or value is wrong; the message names
            the file, the key and what was expected.
    """
    raw = _load(path)
    raw = _extended(raw, path)
    raw.setdefault("title", path.stem)
    raw.setdefault("folder", str(path.resolve().parent))
    apply_overrides(raw, overrides or {}, where=str(path))
    if {"algorithms", "problems"} <= set(raw):
        raise ConfigurationError(
            f"{path} is a study file, not a problem file: moofusion compare --study {path}"
        )
    try:
        return ProblemSpec.model_validate(raw)
    except ValidationError as error:
        given = f" with {', '.join(overrides)} set" if overrides else ""
        raise ConfigurationError(f"problem file {path}{given}: {_explain(error)}") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"problem file {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"problem file {path} is not valid TOML: {error}") from error


def _extended(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """A file that names another under ``extends``: that file, cut to ``only`` and changed."""
    other, only = raw.pop("extends", None), raw.pop("only", None)
    if other is None:
        if only is not None:
            raise ConfigurationError(f"problem file {path}: 'only' needs 'extends'")
        return raw
    parent = path.parent / f"{other}.toml"
    whole = _load(parent)
    if "extends" in whole:
        raise ConfigurationError(f"problem file {path}: {parent.name} extends another file itself")
    whole.setdefault("title", parent.stem)
    if only is not None:
        apply_overrides(whole, {"tasks": only}, where=str(parent))
    return whole | raw


def apply_overrides(raw: dict[str, Any], overrides: Mapping[str, Any], *, where: str) -> None:
    """Replace values in the table of a problem file, in place.

    Args:
        raw: Table of the file.
        overrides: Values by dotted key. List members are addressed by their name
            (``"tasks.mnist.objective"``). Two keys take lists of names and cut down:
            ``"tasks"`` keeps these tasks, and with them the experts of the same names;
            ``"experts"`` keeps these experts.
        where: Name of the file, for the messages.

    Raises:
        ConfigurationError: A key leads nowhere, or a name is unknown.
    """
    rest = dict(overrides)
    tasks, experts = rest.pop("tasks", None), rest.pop("experts", None)
    # Tables of another form are left as they are, for the validation to explain.
    pool = raw["pool"] if isinstance(raw.get("pool"), dict) else {}
    listed = raw.get("tasks", [])
    if not isinstance(listed, list) or not all(isinstance(task, dict) for task in listed):
        return
    if tasks is not None:
        known = [task.get("name") for task in raw.get("tasks", [])]
        _require_names("task", tasks, known)
        if list(tasks) != known:
            raw["title"] = f"{raw['title']} ({', '.join(tasks)})"
        raw["tasks"] = [t for name in tasks for t in raw["tasks"] if t.get("name") == name]
        served = [task for task in raw["tasks"] if task.get("kind") not in BASE_KINDS]
        heads = [task.get("head") or task.get("name") for task in served]
        if experts is None and heads and all(head in pool.get("experts", {}) for head in heads):
            experts = list(dict.fromkeys(heads))
        raw["constraints"] = [c for c in raw.get("constraints", []) if c.get("task") in tasks]
    if experts is not None:
        _require_names("expert", experts, pool.get("experts", {}))
        pool["experts"] = {name: pool["experts"][name] for name in experts}
    for key, value in rest.items():
        *path, last = key.split(".")
        place: Any = raw
        for step in path:
            place = _step(place, step, key, where)
        if not isinstance(place, dict):
            raise ConfigurationError(
                f"override {key!r} of {where}: {'.'.join(path)} is not a table"
            )
        place[last] = value


def _step(place: Any, step: str, key: str, where: str) -> Any:
    if isinstance(place, dict):
        return place.setdefault(step, {})
    if isinstance(place, list):
        for member in place:
            if isinstance(member, dict) and step in (member.get("name"), member.get("task")):
                return member
        names = [str(m.get("name", m.get("task"))) for m in place if isinstance(m, dict)]
        raise UnknownNameError(f"member in override {key!r} of {where}", step, names)
    raise ConfigurationError(f"override {key!r} of {where}: {step!r} leads into a plain value")


def _require_names(kind: str, wanted: Sequence[str], known: Any) -> None:
    if isinstance(wanted, str) or not wanted:
        raise ConfigurationError(f"{kind}s: expected a list of names, got {wanted!r}")
    for name in wanted:
        if name not in known:
            raise UnknownNameError(kind, name, known)
    if len(set(wanted)) < len(wanted):
        raise ConfigurationError(f"{kind}s {list(wanted)}: a name occurs twice")


def _explain(error: ValidationError) -> str:
    """The validation errors as sentences: key, what was expected, what came."""
    lines = []
    for item in error.errors():
        location = item["loc"]
        steps = [str(s) for i, s in enumerate(location) if not _is_member(location, i)]
        key = ".".join(steps)
        if item["type"] == "extra_forbidden":
            known = sorted(_keys_at(location[:-1]))
            guess = _guess(steps[-1], known)
            lines.append(f"unknown key {key!r}; {guess}expected one of {', '.join(known)}")
        elif item["type"] == "union_tag_invalid":
            tag, expected = item["ctx"]["tag"], item["ctx"]["expected_tags"]
            guess = _guess(tag, re.findall(r"'(.*?)'", expected))
            lines.append(f"unknown kind {tag!r} in {key!r}; {guess}expected one of {expected}")
        else:
            came = repr(item.get("input"))
            shown = came if len(came) < 80 else type(item.get("input")).__name__
            told = item["type"] in ("missing", "value_error")
            lines.append(key_message(item, steps) + ("" if told else f", got {shown}"))
    return "; ".join(_together(lines))


def _together(lines: Sequence[str]) -> Iterator[str]:
    """Keys that should be the same share a sentence: "keys 'a.n', 'b.n' should be whole"."""
    said: dict[str, list[str]] = {}
    for line in lines:
        found = _SHOULD.fullmatch(line)
        keys = said.setdefault(found[2] if found else line, [])
        keys += [found[1]] if found else []
    for rest, keys in said.items():
        noun = {0: "", 1: "key "}.get(len(keys), "keys ")
        yield f"{noun}{', '.join(keys)}{rest}"


def _guess(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _is_member(location: Sequence[Any], i: int) -> bool:
    """Whether a step of a location is no key, but a member of a union that pydantic names."""
    step = str(location[i])
    kind = (
        step in TASK_KINDS
        and i > 0
        and (isinstance(location[i - 1], int) or location[i - 1] == "on")
    )
    return bool(kind or _UNION_MEMBER.search(step))


def _keys_at(location: Sequence[Any]) -> list[str]:
    """Keys that the table at a location may have."""
    model: Any = ProblemSpec
    for i, step in enumerate(location):
        if isinstance(step, int):
            continue
        if _is_member(location, i):
            model = TASK_KINDS[step]
            continue
        model = model.model_fields[step].annotation
        while get_origin(model) is list:
            model = get_args(model)[0]
    return [name for name in model.model_fields if name != "folder"]
