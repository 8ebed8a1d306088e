"""The command line: commands, progress, plain-language errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from moofusion.errors import ConfigurationError, MoofusionError

if TYPE_CHECKING:
    from moofusion.problems import MergeProblem

__all__ = ["app", "main"]

app = typer.Typer(
    name="moofusion",
    help="Model merging as multi-objective optimization.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
zoo_app = typer.Typer(help="Build the offline models and data.", no_args_is_help=True)
app.add_typer(zoo_app, name="zoo")

_out = Console()
_err = Console(stderr=True)

ProblemName = Annotated[str, typer.Argument(help="Name in the catalogue, or a .toml file.")]
Tasks = Annotated[
    str | None, typer.Option(help="Keep these tasks and their experts: mnist,fashion.")
]
Experts = Annotated[str | None, typer.Option(help="Keep these experts: mnist,fashion.")]
SpaceName = Annotated[
    str | None,
    typer.Option(help="task-wise, simplex, block-wise, module-wise, tensor-wise or depth-spline."),
]
Objective = Annotated[
    str | None, typer.Option(help="What every task optimizes: accuracy, macro_f1 or loss.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any value of the problem file: --set space.upper=0.8"),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; part of reproducibility.")]


def main() -> None:
    """Entry point: errors of the user's end in one message, not in a traceback."""
    try:
        app()
    except MoofusionError as error:
        _err.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        sys.exit(2)


@app.command()
def search(
    problem: ProblemName,
    algorithm: Annotated[
        str,
        typer.Option(help="Algorithm with parameters, nsga2:pop_size=20; see `algorithms`."),
    ] = "nsga2",
    evaluations: Annotated[int, typer.Option(min=1, help="Budget of evaluations.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the algorithm.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; by default runs/PROBLEM-ALGORITHM-SEED.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run in --out.")] = False,
    force: Annotated[bool, typer.Option(help="Replace the run in --out.")] = False,
    tasks: Tasks = None,
    experts: Experts = None,
    space: SpaceName = None,
    objective: Objective = None,
    overrides: Overrides = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Search a problem and write its front of merged models.

    Writes evaluations.csv, front.csv, references.csv, front.png, front_search.png and summary.md
    to the run folder. Ctrl-C loses nothing: the same command with --resume goes on.
    """
    folder = out or Path("runs") / f"{Path(problem).stem}-{algorithm.partition(':')[0]}-{seed}"
    opened = _open(problem, tasks, experts, space, objective, overrides, device, threads)
    from moofusion.comparison import search as run
    from moofusion.comparison.summary import summary_rows

    try:
        with _progress() as progress:
            result = run(
                opened,
                algorithm,
                evaluations=evaluations,
                seed=seed,
                out=folder,
                resume=resume,
                force=force,
                progress=progress,
                command=_command_line(),
            )
    except KeyboardInterrupt:
        _err.print(
            f"\ninterrupted; what was evaluated is in {folder}/evaluations.csv. "
            "Go on with the same command and [bold]--resume[/]",
            soft_wrap=True,
        )
        sys.exit(130)
    split = result.splits[-1]
    shown = Table(title=f"{opened.title}, {split} split", title_justify="left")
    shown.add_column("model")
    for task, metric in zip(result.front.tasks, result.front.metrics, strict=True):
        shown.add_column(f"{task}\n{metric.name}", justify="right")
    for label, points, index in summary_rows(result):
        values = zip(points.values(split)[index], result.front.metrics, strict=True)
        shown.add_row(label, *(f"{100 * v:.1f} %" if m.percent else f"{v:.4f}" for v, m in values))
    _out.print(shown)
    volumes = ", ".join(f"{s} [bold]{result.hypervolume(s):.4f}[/]" for s in result.splits)
    _out.print(f"normalized hypervolume (reference 1.1): {volumes}")
    if "test" not in result.splits:
        _out.print("[yellow]no held-out test split:[/] all values are those the search saw")
    wish = f"{result.front.tasks[0]}=0.7"
    if len(result.front.tasks) > 1:
        wish += f",{result.front.tasks[1]}=0.3"
    _out.print(
        f"{len(result.front)} models in {folder}/front.csv, picture in {folder}/front.png, report "
        f"in {folder}/summary.md\nnext: moofusion export {folder} --preference {wish} --to OUT",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder written by `moofusion search`.")],
    to: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
    preference: Annotated[
        str | None, typer.Option(help="Importance of the tasks: mnist=0.7,animals=0.3.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="How to choose: weighted, asf, pseudo-weights or knee.")
    ] = "weighted",
    point: Annotated[
        int | None, typer.Option(help="Number of the point in front.csv, instead of a preference.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Task whose head goes into the checkpoint.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    force: Annotated[bool, typer.Option(help="Replace an existing export.")] = False,
) -> None:
    """Write one model of a front as an ordinary checkpoint.

    The model is the one that maximises the preference on the measured search values. In float32
    it reproduces the recorded metrics exactly when loaded back with transformers.
    """
    if preference is None and point is None and by != "knee":
        raise ConfigurationError(
            "say which model: --preference mnist=0.7,animals=0.3, --by knee, or --point 3"
        )
    from moofusion.comparison import SearchResult

    with _err.status(f"exporting from {run} ..."):
        result = SearchResult.load(run)
        done = result.export(
            to, preference, by=by, point=point, head=head, dtype=dtype, force=force
        )
    _out.print(f"wrote {done.folder} with the head of [bold]{done.head}[/]", soft_wrap=True)
    if done.other_heads:
        _out.print(f"other heads in {done.folder}/heads: {', '.join(done.other_heads)}")


@app.command()
def problems() -> None:
    """List the ready-made problems."""
    from moofusion.problems import list_problems, problem_spec
    from moofusion.zoo import zoo_folder

    table = Table()
    for column in ("problem", "tasks", "ready", "description"):
        table.add_column(column)
    for name in list_problems():
        spec = problem_spec(name)
        ready = "yes"
        if spec.pool.base.startswith("zoo:"):
            try:
                zoo_folder(spec.pool.base.removeprefix("zoo:").partition("/")[0])
            except MoofusionError:
                ready = "to build"
        table.add_row(name, ", ".join(task.name for task in spec.tasks), ready, spec.description)
    _out.print(table)


@app.command()
def algorithms() -> None:
    """List the algorithms and their parameters."""
    from moofusion.algorithms import ALGORITHMS

    table = Table()
    for column in ("algorithm", "parameters", "what it is"):
        table.add_column(column)
    for name, entry in ALGORITHMS.items():
        parameters = ", ".join(f"{k}={v}" for k, v in entry.parameters.items())
        table.add_row(name, parameters, entry.summary)
    _out.print(table)


@app.command()
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
    opened = _open(problem, tasks, experts, space, objective, overrides, device, threads)
    pool = opened.evaluator.pool
    layout, vectors = pool.layout, pool.vectors
    _out.print(f"[bold]{opened.title}[/]: {opened.spec.description if opened.spec else ''}")
    groups = ", ".join(
        f"{layout.partition(g).n_groups} {g if g == 'model' else g + 's'}"
        for g in ("model", "block", "module", "tensor")
    )
    static = " (the rest static)" if opened.space.partition.has_static else ""
    _out.print(
        f"{layout.n_parameters:,} merged parameters in {groups}; space: {opened.space}{static}, "
        f"bounds [{opened.xl.min():g}, {opened.xu.max():g}]",
        soft_wrap=True,
    )
    table = Table("task", "metric", "classes", "train", "search", "test", title="Tasks")
    for task in opened.tasks:
        sizes = [
            str(task.n_samples(s)) if task.has_split(s) else "-"
            for s in ("train", "search", "test")
        ]
        classes = str(len(getattr(task, "classes", ()))) or "-"
        table.add_row(task.name, task.objective.name, classes, *sizes)
    _out.print(table)
    table = Table("expert", "norm", *(f"cos {n}" for n in vectors.names), title="Task vectors")
    for name, norm, row in zip(vectors.names, vectors.norms(), vectors.cosines(), strict=True):
        table.add_row(name, f"{norm:.3f}", *(f"{value:+.3f}" for value in row))
    _out.print(table)
    with _err.status("evaluating base and experts ..."):
        anchors = opened.anchors()
    table = Table("model", *opened.task_names, title="Anchors, search split")
    for label, evaluation in zip(anchors.names, anchors.evaluations, strict=True):
        table.add_row(
            label,
            *(
                f"{100 * found.metrics[t.objective.name]:.1f} %"
                if t.objective.percent
                else f"{found.metrics[t.objective.name]:.4f}"
                for t, found in zip(opened.tasks, evaluation.measurements, strict=True)
            ),
        )
    _out.print(table)
    seconds = sorted(e.seconds for e in anchors.evaluations)[len(anchors.evaluations) // 2]
    samples = anchors.evaluations[0].cost
    _out.print(f"one evaluation: {samples:.0f} samples, {seconds:.2f} s on this machine")


@zoo_app.command("build")
def zoo_build(
    name: Annotated[str, typer.Argument(help="vision4 or vision5.")],
    data: Annotated[
        str, typer.Option(help="Folder with the raw data sets, or `hub` to fetch them.")
    ],
    out: Annotated[Path | None, typer.Option(help="Where to write; by default the cache.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing build.")] = False,
    threads: Threads = None,
) -> None:
    """Train base and experts from raw data. An interrupted build goes on where it stopped."""
    from moofusion.zoo import build_zoo

    folder = build_zoo(name, data=data, out=out, force=force, threads=threads)
    _out.print(f"built {folder}", soft_wrap=True)


def _version(value: bool) -> None:
    if value:
        from moofusion import __version__

        _out.print(f"moofusion {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Model merging as multi-objective optimization."""


def _open(
    problem: str,
    tasks: str | None,
    experts: str | None,
    space: str | None,
    objective: str | None,
    overrides: list[str] | None,
    device: str | None,
    threads: int | None,
) -> MergeProblem:
    with _err.status(f"opening {problem} ..."):
        import torch

        from moofusion.problems import get_problem

        if threads is not None:
            torch.set_num_threads(threads)
        return get_problem(
            problem,
            tasks=_names(tasks),
            experts=_names(experts),
            space=space,
            objective=objective,
            device=device,
            overrides=dict(_override(text) for text in overrides or []),
        )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _override(text: str) -> tuple[str, Any]:
    import tomllib

    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigurationError(f"--set {text!r}: expected KEY=VALUE, such as space.upper=0.8")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int, float], None]]:
    """A bar with evaluations, hypervolume and time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_err) as bars:
        ids: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, volume: float) -> None:
            note = f"hypervolume {volume:.4f}" if stage == "search" else ""
            if stage not in ids:
                label = {"search": "searching", "test": "testing"}[stage]
                ids[stage] = bars.add_task(label, total=total, note=note)
            bars.update(ids[stage], completed=done, total=total, note=note)

        yield report


def _command_line() -> str:
    import shlex

    return shlex.join(["moofusion", *sys.argv[1:]])


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
