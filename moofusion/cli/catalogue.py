"""``moofusion problems``, ``algorithms``, ``describe`` and ``zoo build``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from moofusion.cli.display import err, screen
from moofusion.cli.options import (
    Device,
    Experts,
    Objective,
    Overrides,
    ProblemName,
    SpaceName,
    Tasks,
    Threads,
    open_problem,
)
from moofusion.errors import MoofusionError

__all__ = ["algorithms", "describe", "problems", "zoo_build"]


# Where models may be, the nearest first.
_PLACES = ("local", "to build", "on the hub")


def problems() -> None:
    """List the ready-made problems."""
    from moofusion.problems import list_problems, problem_spec

    table = Table()
    table.add_column("problem", no_wrap=True)
    table.add_column("models", no_wrap=True)
    table.add_column("tasks: description", overflow="fold")
    rows = []
    for name in list_problems():
        spec = problem_spec(name)
        tasks = ", ".join(task.name for task in spec.tasks)
        rows.append((name, _whereabouts(spec.pool.base), f"[bold]{tasks}[/]: {spec.description}"))
    for row in sorted(rows, key=lambda row: _PLACES.index(row[1])):
        table.add_row(*row)
    screen.print(table)


def _whereabouts(base: str) -> str:
    """Where the models of a problem are, by the source of its base."""
    from moofusion.zoo import zoo_folder

    if not base.startswith("zoo:"):
        return "local" if Path(base).expanduser().exists() else "on the hub"
    try:
        zoo_folder(base.removeprefix("zoo:").partition("/")[0])
    except MoofusionError:
        return "to build"
    return "local"


def algorithms() -> None:
    """List the algorithms and their parameters."""
    from moofusion.algorithms import ALGORITHMS

    table = Table()
    for column in ("algorithm", "parameters", "what it is"):
        table.add_column(column)
    for name, entry in ALGORITHMS.items():
        parameters = ", ".join(f"{k}={v}" for k, v in entry.parameters.items())
        table.add_row(name, parameters, entry.summary)
    screen.print(table)


def describe(
    problem: ProblemName,
    tasks: Tasks = None,
    experts: Experts = None,
    space: SpaceName = None,
    objective: Objective = None,
    overrides: Overrides = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Show a problem: sizes, groups, task vectors, and how base and experts score."""
    opened = open_problem(problem, tasks, experts, space, objective, overrides, device, threads)
    pool = opened.evaluator.pool
    layout, vectors = pool.layout, pool.vectors
    screen.print(f"[bold]{opened.title}[/]: {opened.spec.description if opened.spec else ''}")
    groups = ", ".join(
        f"{layout.partition(g).n_groups} {g if g == 'model' else g + 's'}"
        for g in ("model", "block", "module", "tensor")
    )
    static = " (the rest static)" if opened.space.partition.has_static else ""
    screen.print(
        f"{layout.n_parameters:,} merged parameters in {groups}\nspace: {opened.space}{static}, "
        f"bounds [{opened.xl.min():g}, {opened.xu.max():g}]"
    )
    table = Table("task", "metric", "classes", "train", "search", "test", title="Tasks")
    for task in opened.tasks:
        sizes = [
            str(task.n_samples(s)) if task.has_split(s) else "-"
            for s in ("train", "search", "test")
        ]
        classes = str(len(getattr(task, "classes", ())) or "-")
        table.add_row(task.name, task.objective.name, classes, *sizes)
    screen.print(table)
    table = Table("expert", "norm", *(f"cos {n}" for n in vectors.names), title="Task vectors")
    for name, norm, row in zip(vectors.names, vectors.norms(), vectors.cosines(), strict=True):
        table.add_row(name, f"{norm:.3f}", *(f"{value:+.3f}" for value in row))
    screen.print(table)
    with err.status("evaluating base and experts ..."):
        anchors = opened.anchors()
    table = Table("model", *opened.task_names, title="Anchors, search split")
    for label, evaluation in zip(anchors.names, anchors.evaluations, strict=True):
        table.add_row(
            label,
            *(
                t.objective.text(found.metrics[t.objective.name])
                for t, found in zip(opened.tasks, evaluation.measurements, strict=True)
            ),
        )
    screen.print(table)
    seconds = sorted(e.seconds for e in anchors.evaluations)[len(anchors.evaluations) // 2]
    samples = anchors.evaluations[0].cost
    screen.print(f"one evaluation: {samples:.0f} samples, {seconds:.2f} s on this machine")


def zoo_build(
    name: Annotated[str, typer.Argument(help="vision4, vision5, lm3 or text3.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="vision4, vision5: folder with the raw data sets, or `hub` to fetch them. "
            "lm3, text3: folder with the archives, which are fetched otherwise."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; by default $MOOFUSION_ZOO or the cache.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing build.")] = False,
    threads: Threads = None,
) -> None:
    """Train base and experts from real data. An interrupted build goes on where it stopped."""
    from moofusion.zoo import build_zoo

    folder = build_zoo(name, data=data, out=out, force=force, threads=threads)
    screen.print(f"built {folder}", soft_wrap=True)
