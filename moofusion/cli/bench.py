"""``moofusion bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from moofusion.cli.display import err, screen
from moofusion.errors import ConfigurationError, DataError, PoolError, RunError
from moofusion.progress import study_progress

__all__ = ["bench"]


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Published tables; without names: lists them, or checks all."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the published tables.")] = Path(
        "docs/benchmarks"
    ),
    store: Annotated[
        Path, typer.Option(help="Folder of the stores (SQLite files), one for each table.")
    ] = Path("runs/bench"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    check: Annotated[
        bool, typer.Option("--check", help="Only run one run again, and compare its digits.")
    ] = False,
    row: Annotated[int, typer.Option(min=0, help="Which run is checked.")] = 0,
) -> None:
    """Make published tables again, or check one run of each.

    Every run uses one thread, so that the same kind of machine gives the same digits. An
    interrupted command goes on where it stopped.
    """
    from moofusion.comparison.bench import (
        bench_about,
        bench_names,
        bench_study,
        check_bench,
        publish_bench,
    )

    if not names and not check:
        table = Table("table", "published", "what it compares")
        for name in bench_names():
            there = "yes" if (out / f"{name}.csv").is_file() else "no"
            table.add_row(name, there, bench_about(name))
        screen.print(table)
        return
    chosen = names
    names = chosen or [name for name in bench_names() if (out / f"{name}.csv").is_file()]
    if not names:
        raise ConfigurationError(
            f"{out} has no published table to check; name a folder that has: --out FOLDER"
        )
    differing, unchecked = [], []
    for name in names:
        if check:
            try:
                with err.status(f"running one run of {name} again ..."):
                    found = check_bench(name, out, row=row)
            except (PoolError, DataError) as error:  # models that are not built here
                if chosen:
                    raise
                unchecked.append(name)
                screen.print(f"{name}: not checked, {error}", soft_wrap=True, highlight=False)
                continue
            for key, (old, new) in found.items():
                screen.print(f"{name}, {key}: published {old}, now {new}", highlight=False)
            if found:
                differing.append(name)
            else:
                screen.print(f"{name}: run {row} has the published digits", highlight=False)
            continue
        store.mkdir(parents=True, exist_ok=True)
        with err.status("measuring base, experts and controls ..."):
            study = bench_study(name, store / f"{name}.db")
        with study_progress(err) as progress:
            study.run(n_jobs=jobs, threads=1, progress=progress)
        for file in publish_bench(name, study.path, out):
            screen.print(f"wrote {file}", soft_wrap=True, highlight=False)
    if len(unchecked) == len(names):
        raise RunError("no table could be checked")
    if differing:
        raise RunError(
            f"{', '.join(differing)}: digits differ from {out}. On the same kind of machine with "
            "the packages of constraints.txt they should not; otherwise make the table again"
        )
