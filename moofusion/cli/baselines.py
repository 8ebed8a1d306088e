"""``moofusion baselines train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from moofusion.cli.display import err, screen
from moofusion.cli.options import (
    Device,
    Experts,
    Overrides,
    ProblemName,
    Tasks,
    Threads,
    open_problem,
)
from moofusion.progress import training_progress

__all__ = ["train"]


def train(
    problem: ProblemName,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints and baselines.json.")],
    method: Annotated[
        str, typer.Option(help="ls, epo, mgda, tchebycheff, smooth_tchebycheff, ...")
    ] = "ls",
    rays: Annotated[
        int | None, typer.Option(min=1, help="Preferences; by default 11 for two tasks, else 66.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of every ray.")] = 8000,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 1e-5,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per task and step.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of preferences and batches.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    tasks: Tasks = None,
    experts: Experts = None,
    overrides: Overrides = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Fine-tune the whole network from the base, one checkpoint for each preference.

    What merging is compared with. Finished rays are kept: the same command goes on after an
    interruption.
    """
    opened = open_problem(problem, tasks, experts, None, None, overrides, device, threads)
    from moofusion.baselines import train_rays

    try:
        with training_progress(opened.task_names, err) as progress:
            done = train_rays(
                opened,
                out,
                method=method,
                rays=rays,
                steps=steps,
                lr=lr,
                batch_size=batch_size,
                dtype=dtype,
                seed=seed,
                progress=progress,
            )
    except KeyboardInterrupt:
        err.print(f"\ninterrupted; finished rays are in {out}. Go on with the same command")
        sys.exit(130)
    split = "test" if opened.has_test_split else "search"
    table = Table("ray", "preference", *opened.task_names, title=f"{opened.title}, {split} split")
    for ray in done.rays:
        wish = " ".join(f"{share:.2f}" for share in ray.preference.values())
        values = (
            f"{100 * value:.1f} %" if metric.percent else f"{value:.4f}"
            for metric, value in (
                (task.objective, ray.metrics[split][task.name][task.objective.name])
                for task in opened.tasks
            )
        )
        table.add_row(ray.folder, wish, *values)
    screen.print(table)
    screen.print(
        f"{len(done.rays)} checkpoints in {done.folder}, {done.cost:.0f} cost units of training",
        soft_wrap=True,
    )
