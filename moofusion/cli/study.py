"""``moofusion compare``, ``status`` and ``report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from moofusion.cli.display import err, program, screen
from moofusion.cli.options import Device, Objective, Overrides, SpaceName, Tasks, open_problem
from moofusion.errors import ConfigurationError
from moofusion.progress import study_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moofusion.comparison import Store, Study
    from moofusion.comparison.store import Cell

__all__ = ["compare", "report", "status"]

StudyFile = Annotated[
    Path, typer.Argument(help="Store (SQLite file) that `moofusion compare` wrote.")
]


def compare(
    problems: Annotated[
        list[str] | None, typer.Argument(help="Names in the catalogue, or .toml files.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="A study file (TOML) that says all of it instead.")
    ] = None,
    algorithms: Annotated[
        str, typer.Option(help="Algorithms with parameters: nsga2:pop_size=20,random,soup.")
    ] = "nsga2",
    seeds: Annotated[
        str, typer.Option(help="Number of seeds, or the seeds themselves: 5, or 1,2,3.")
    ] = "5",
    evaluations: Annotated[int | None, typer.Option(min=1, help="Budget in evaluations.")] = None,
    cost: Annotated[float | None, typer.Option(help="Budget in cost units.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Budget in seconds.")] = None,
    store: Annotated[Path, typer.Option(help="SQLite file that keeps it all.")] = Path("study.db"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    backend: Annotated[
        str, typer.Option(help="loky, threading or ray; dask from Python.")
    ] = "loky",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads per run; by default cores / jobs.")
    ] = None,
    front_size: Annotated[
        int, typer.Option(min=1, help="Most models of a run that are measured on test.")
    ] = 50,
    controls: Annotated[
        bool, typer.Option(help="Run random search and rewarded soup beside the others.")
    ] = True,
    tasks: Tasks = None,
    space: SpaceName = None,
    objective: Objective = None,
    overrides: Overrides = None,
    device: Device = None,
) -> None:
    """Compare algorithms on problems over seeds at equal cost.

    Every evaluation is stored as it happens. The same command goes on where it stopped, and does
    only what is missing.
    """
    from moofusion.comparison import Study
    from moofusion.comparison.study_spec import read_study

    if study is not None:
        if problems:
            raise ConfigurationError("give problems or --study, not both")
        made = read_study(study, store=store)
    else:
        if not problems:
            raise ConfigurationError("say what to compare on: moofusion compare vision4")
        limits = {"evaluations": evaluations, "cost": cost, "seconds": seconds}
        if all(limit is None for limit in limits.values()):
            limits["evaluations"] = 200
        opened = [
            open_problem(name, tasks, None, space, objective, overrides, device, threads)
            for name in problems
        ]
        with err.status("measuring base, experts and controls ..."):
            made = Study(
                opened,
                _algorithms(algorithms),
                seeds=_seeds(seeds),
                store=store,
                front_size=front_size,
                controls=controls,
                **limits,  # type: ignore[arg-type]
            )
    with err.status("looking how long an evaluation takes ..."):
        runs, seconds = made.missing()
    err.print(
        f"{runs} runs to do, {made.budget} each: about {_duration(seconds / jobs)} of searching",
        highlight=False,
    )
    try:
        with study_progress(err) as progress:
            made.run(n_jobs=jobs, backend=backend, threads=threads, progress=progress)
    except KeyboardInterrupt:
        err.print(
            f"\ninterrupted; what was evaluated is in {made.path}. "
            "The same command goes on where it stopped",
            soft_wrap=True,
        )
        sys.exit(130)
    _show(made)


def _duration(seconds: float) -> str:
    """Seconds, minutes or hours for people: ``"40 s"``, ``"3 min"``, ``"2.5 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status(
    study: StudyFile,
    watch: Annotated[bool, typer.Option(help="Refresh until all runs have ended.")] = False,
) -> None:
    """Show how far a study is, also while it runs."""
    from moofusion.comparison import Store

    with Store(study, create=False) as store:
        if not watch:
            screen.print(_status_table(store.cells()))
        else:
            _watch(store)
        failed = [cell for cell in store.cells() if cell.status == "failed"]
    for cell in failed:
        screen.print(
            f"failed: {cell.title}, {cell.algorithm}, seed {cell.seed}: {cell.message}",
            soft_wrap=True,
            markup=False,
        )


def _watch(store: Store) -> None:
    """Show the table anew every second, until no run waits or goes on, or Ctrl-C."""
    import time

    from rich.live import Live

    cells = store.cells()
    with Live(_status_table(cells), console=screen, auto_refresh=False) as live:
        try:
            # Before the controls are measured there are no runs yet.
            while not cells or any(cell.status in ("pending", "running") for cell in cells):
                time.sleep(1)
                cells = store.cells()
                live.update(_status_table(cells), refresh=True)
        except KeyboardInterrupt:
            pass


def _status_table(cells: Sequence[Cell]) -> Table:
    budgets = list(dict.fromkeys(c.budget for c in cells))
    table = Table("problem", "algorithm", title=f"budget: {', '.join(budgets)}")
    for column in ("done", "running", "failed", "evaluations"):
        table.add_column(column, justify="right", no_wrap=True)
    groups = dict.fromkeys((c.title, c.algorithm, c.budget) for c in cells)
    for title, algorithm, budget in groups:
        mine = [c for c in cells if (c.title, c.algorithm, c.budget) == (title, algorithm, budget)]
        count = {s: sum(c.status == s for c in mine) for s in ("done", "running", "failed")}
        table.add_row(
            title,
            algorithm if len(budgets) == 1 else f"{algorithm}, {budget}",
            f"{count['done']} of {len(mine)}",
            str(count["running"]),
            str(count["failed"]),
            str(sum(c.evaluations for c in mine)),
        )
    return table


def report(
    study: StudyFile,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("report"),
    force: Annotated[bool, typer.Option(help="Replace an existing report.")] = False,
) -> None:
    """Write tables, figures and one interactive page of a study."""
    from moofusion.comparison.report import write_report

    with err.status(f"writing {out} ..."):
        folder = write_report(study, out, force=force)
    screen.print(f"wrote {folder}", soft_wrap=True)


def _algorithms(text: str) -> list[str]:
    """Split at commas; ``key=value`` without a name continues the algorithm before it."""
    found: list[str] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        if found and "=" in part and ":" not in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _seeds(text: str) -> int | list[int]:
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigurationError(
            f"--seeds {text!r}: expected a number of seeds, or seeds such as 1,2,3"
        ) from error
    return numbers[0] if len(numbers) == 1 and "," not in text else numbers


def _show(study: Study) -> None:
    frame = study.results().table()
    splits = [c.removeprefix("HV ") for c in frame.columns if c.startswith("HV ")]
    for problem, rows in frame.groupby("problem", sort=False):
        table = Table(title=f"{problem}: normalized hypervolume, mean ± sd", title_justify="left")
        table.add_column("algorithm", overflow="fold")
        for column in ("seeds", *splits, "points"):
            table.add_column(column, justify="right", no_wrap=True)
        for _, row in rows.iterrows():
            volumes = (f"{row[f'HV {s}']:.4f} ± {row[f'sd {s}']:.4f}" for s in splits)
            table.add_row(row["algorithm"], str(row["seeds"]), *volumes, f"{row['points']:.0f}")
        screen.print(table)
    screen.print(
        "of the reported fronts, over seeds; reference point 1.1 in every objective: 0 is the best "
        "anchor, 1 the worst"
    )
    screen.print(f"next: {program()} report {study.path} --out report", highlight=False)
