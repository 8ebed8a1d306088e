"""How a study was asked for, read back from its file: a command line, or a study file in TOML."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moofusion.comparison.cell import Budget
from moofusion.comparison.store import Cell
from moofusion.comparison.study import FRONT_SIZE
from moofusion.comparison.study_data import ProblemData, StudyData

__all__ = ["Recipe", "recipes"]


@dataclass(frozen=True)
class Recipe:
    """What makes the runs of one budget again.

    Attributes:
        command: Command line.
        file: Name of the study file that the command reads; None where it needs none.
        toml: Contents of that file.
    """

    command: str
    file: str | None = None
    toml: str | None = None


def recipes(data: StudyData, study: str | Path) -> list[Recipe]:
    """One recipe for each budget of the study.

    A problem that did not come from the catalogue stands in the study file as ``"..."``, for the
    name of a problem file.

    Args:
        data: The study.
        study: Its file, as the commands are to name it.
    """
    done = [run for run in data.runs if run.cell.status == "done"]
    budgets = list(dict.fromkeys(run.cell.budget for run in done))
    found = []
    for budget in budgets:
        runs = [run for run in done if run.cell.budget == budget]
        cells = [run.cell for run in runs]
        fingerprints = {cell.problem for cell in cells}
        problems = [p for p in data.problems.values() if p.fingerprint in fingerprints]
        entries = [_entry(problem) for problem in problems]
        algorithms = list(dict.fromkeys(cell.algorithm for cell in cells))
        seeds = _seeds(sorted({cell.seed for cell in cells}))
        limit = Budget.parse(budget)
        settings = _settings(algorithms, cells)
        # The last digits depend on it.
        threads = {run.machine.get("threads") for run in runs}
        words = (
            ["--threads", str(threads.pop())] if len(threads) == 1 and None not in threads else []
        )
        if all(set(entry) == {"problem"} and entry["problem"] != "..." for entry in entries):
            names = [entry["problem"] for entry in entries]
            words = [*_options(settings), *words]
            found.append(Recipe(_command(names, algorithms, seeds, limit, study, words)))
        else:
            name = "study.toml" if len(budgets) == 1 else f"study-{budget.replace('=', '-')}.toml"
            text = _toml(entries, algorithms, seeds, limit, settings)
            line = ["moofusion", "compare", "--study", name, "--store", str(study), *words]
            found.append(Recipe(shlex.join(line), name, text))
    return found


def _seeds(seeds: list[int]) -> int | list[int]:
    """Their number, if they are those that a study draws by itself."""
    drawn = np.random.SeedSequence(2024).generate_state(len(seeds)) >> 1
    return len(seeds) if sorted(drawn.tolist()) == seeds else seeds


def _settings(algorithms: Sequence[str], cells: Sequence[Cell]) -> dict[str, Any]:
    """What differs from the defaults of a study, by its key in study files."""
    found: dict[str, Any] = {}
    sizes = {cell.front_size for cell in cells} - {None}
    if len(sizes) == 1 and sizes != {FRONT_SIZE}:
        found["front_size"] = sizes.pop()
    if not {"random", "soup"} <= {algorithm.partition(":")[0] for algorithm in algorithms}:
        found["controls"] = False
    return found


def _options(settings: Mapping[str, Any]) -> list[str]:
    """The same as options of the command line."""
    words = ["--no-controls"] if "controls" in settings else []
    if "front_size" in settings:
        words += ["--front-size", str(settings["front_size"])]
    return words


def _command(
    names: Sequence[str],
    algorithms: Sequence[str],
    seeds: int | list[int],
    budget: Budget,
    study: str | Path,
    options: Sequence[str],
) -> str:
    listed = str(seeds) if isinstance(seeds, int) else ",".join(map(str, seeds))
    if isinstance(seeds, list) and len(seeds) == 1:
        listed += ","  # a single number would be a number of seeds
    words = ["moofusion", "compare", *names, "--algorithms", ",".join(algorithms)]
    words += ["--seeds", listed, f"--{budget.kind}", f"{budget.limit:.15g}"]
    return shlex.join([*words, *options, "--store", str(study)])


def _toml(
    entries: Sequence[Mapping[str, Any]],
    algorithms: Sequence[str],
    seeds: int | list[int],
    budget: Budget,
    settings: Mapping[str, Any],
) -> str:
    problems = ",\n".join(f"    {_value(entry)}" for entry in entries)
    lines = [
        f"problems = [\n{problems},\n]",
        f"algorithms = {_value(list(algorithms))}",
        f"seeds = {_value(seeds)}",
        f"{budget.kind} = {budget.limit:.15g}",
        *(f"{key} = {_value(value)}" for key, value in settings.items()),
    ]
    if any(entry["problem"] == "..." for entry in entries):
        lines.insert(0, '# "..." was built in Python or from a file of its own: name that file.')
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A value in TOML; a string is written there as in JSON."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _entry(problem: ProblemData) -> dict[str, Any]:
    """The problem as a study file names it."""
    from moofusion.problems import list_problems

    found = next(filter(None, (_made_from(problem, name) for name in list_problems())), None)
    return found or {"problem": "...", "title": problem.title}


def _made_from(problem: ProblemData, name: str) -> dict[str, Any] | None:
    """Name and options of the catalogue that give this very problem, or None."""
    from moofusion.problems import problem_spec

    spec, plain = problem.spec, problem_spec(name)
    tasks, experts = list(problem.tasks), list(spec["pool"]["experts"]) if spec else []
    if (
        spec is None
        or not set(tasks) <= {task.name for task in plain.tasks}
        or not set(experts) <= set(plain.pool.experts)
    ):
        return None
    options: dict[str, Any] = {}
    if tasks != [task.name for task in plain.tasks]:
        options["tasks"] = tasks
    made = problem_spec(name, **options)
    if list(made.pool.experts) != experts:
        options["experts"] = experts
        made = problem_spec(name, **options)
    title, table = made.title, made.model_dump()
    entry: dict[str, Any] = {"problem": name}
    if title != problem.title:
        entry["title"] = problem.title
    entry |= options
    for key in ("space", "merge"):
        if table[key] != spec.get(key, table[key]):
            entry[key] = {k: v for k, v in spec[key].items() if v is not None}
    objectives = {task["objective"] for task in spec["tasks"]}
    if {task["objective"] for task in table["tasks"]} != objectives and len(objectives) == 1:
        (entry["objective"],) = objectives
        table["tasks"] = [t | {"objective": entry["objective"]} for t in table["tasks"]]
    # Where the file lay and where it ran decide nothing about the problem.
    same = all(table[key] == spec.get(key) for key in ("pool", "tasks", "constraints"))
    return entry if same else None
