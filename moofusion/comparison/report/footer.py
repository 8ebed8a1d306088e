"""The end of every report: what is needed to make it again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from moofusion.comparison.report.commands import report_command
from moofusion.comparison.report.recipe import recipes
from moofusion.comparison.report.scores import Section, short_names
from moofusion.comparison.study_data import StudyData

__all__ = ["Footer", "footer"]


@dataclass(frozen=True)
class Footer:
    """What decides the numbers of a report.

    Attributes:
        commands: What runs the study and writes the report again.
        facts: Label and text of everything else.
        files: Study files that the commands read, by name.
    """

    commands: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    files: dict[str, str]

    @property
    def text(self) -> str:
        """Commands, each study file before the command that reads it."""
        written = [f"# {name}:\n{text}" for name, text in self.files.items()]
        return "\n".join([*written, *self.commands])

    def markdown(self) -> str:
        """As Markdown."""
        lines = ["## Reproduce", "", "```", self.text, "```", ""]
        return "\n".join([*lines, *(f"- {label}: {text}" for label, text in self.facts), ""])


def footer(data: StudyData, study: Path, sections: list[Section]) -> Footer:
    """Collect fingerprints, seeds, versions, devices, threads and commands.

    Args:
        data: The study.
        study: Its file, as it was named.
        sections: Problems of the report.
    """
    facts = []
    for problem in dict.fromkeys(section.problem.fingerprint for section in sections):
        known = data.problems[problem]
        held_out = "" if known.held_out else "; no held-out test split"
        facts.append(
            (f"problem {known.title}", f"{', '.join(known.tasks)}; fingerprint {problem}{held_out}")
        )
    runs = [run for section in sections for run in section.runs]
    names = short_names(list(dict.fromkeys(run.cell.algorithm for run in runs)))
    facts.append(("algorithms", ", ".join(a if a == n else f"{n} = {a}" for a, n in names.items())))
    facts.append(("seeds", ", ".join(str(s) for s in sorted({run.cell.seed for run in runs}))))
    facts.append(("budget", ", ".join(dict.fromkeys(run.cell.budget for run in runs))))
    missing = len(data.runs) - len(runs)
    note = f"; {missing} more did not finish and are left out" if missing else ""
    facts.append(("runs", f"{len(runs)} finished{note}"))
    machines = dict.fromkeys(json.dumps(run.machine, sort_keys=True) for run in runs)
    for text in sorted(machines):
        machine = json.loads(text)
        versions = ", ".join(f"{k} {v}" for k, v in machine.get("versions", {}).items())
        facts.append(
            (
                "made on",
                f"{machine.get('device', 'unknown device')}, "
                f"{machine.get('threads', 'unknown')} thread(s), "
                f"Python {machine.get('python', 'unknown')}, {versions or 'unknown versions'}",
            )
        )
    made = recipes(data, study)
    return Footer(
        (*(recipe.command for recipe in made), report_command(study, "report")),
        tuple(facts),
        {recipe.file: recipe.toml for recipe in made if recipe.file and recipe.toml},
    )
