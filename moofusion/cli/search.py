"""``moofusion search`` and ``moofusion export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from moofusion.cli.display import command_line, err, program, screen
from moofusion.cli.options import (
    Device,
    Experts,
    Form,
    How,
    Objective,
    Overrides,
    ProblemName,
    Rank,
    SpaceName,
    Tasks,
    Threads,
    adapter_options,
    open_problem,
)
from moofusion.errors import ConfigurationError
from moofusion.progress import search_progress

if TYPE_CHECKING:
    from moofusion.weights.export import Exported

__all__ = ["export", "search"]


def search(
    problem: ProblemName,
    algorithm: Annotated[
        str,
        typer.Option(help="Algorithm with parameters, nsga2:pop_size=20; see `algorithms`."),
    ] = "nsga2",
    evaluations: Annotated[int, typer.Option(help="Budget of evaluations.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the algorithm.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; by default runs/PROBLEM-ALGORITHM-SEED.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(help="Continue the run in --out, or give one that ended more evaluations."),
    ] = False,
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
    opened = open_problem(problem, tasks, experts, space, objective, overrides, device, threads)
    from moofusion.comparison import search as run
    from moofusion.comparison.quality import REFERENCE
    from moofusion.comparison.summary import summary_rows

    try:
        with search_progress(err) as progress:
            result = run(
                opened,
                algorithm,
                evaluations=evaluations,
                seed=seed,
                out=folder,
                resume=resume,
                force=force,
                progress=progress,
                command=command_line(),
            )
    except KeyboardInterrupt:
        err.print(
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
        shown.add_row(label, *(metric.text(value) for value, metric in values))
    screen.print(shown)
    volumes = ", ".join(f"{s} [bold]{result.hypervolume(s):.4f}[/]" for s in result.splits)
    if len(result.front.tasks) > 1:
        screen.print("Rows of the front are chosen on search; its knee bulges most to the best.")
    most = f"at most about {REFERENCE ** len(result.front.tasks):.4g}"
    screen.print(f"hypervolume (reference {REFERENCE}, {most}): {volumes}")
    if len(result.evaluated) > evaluations:
        screen.print(
            f"[yellow]{len(result.evaluated)} evaluations in place of {evaluations}:[/] "
            f"{algorithm.partition(':')[0]} ends with a whole generation; give a pop_size that "
            "divides the budget"
        )
    if "test" not in result.splits:
        screen.print("[yellow]no held-out test split:[/] all values are those the search saw")
    wish = f"{result.front.tasks[0]}=0.7"
    if len(result.front.tasks) > 1:
        wish += f",{result.front.tasks[1]}=0.3"
    screen.print(
        f"{len(result.front)} models in {folder}/front.csv, picture in {folder}/front.png, report "
        f"in {folder}/summary.md\nnext: {program()} export {folder} --preference {wish} --to OUT",
        soft_wrap=True,
        highlight=False,
    )


def export(
    to: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
    run: Annotated[
        Path | None,
        typer.Argument(help="Run folder of `moofusion search`, or store of `compare`."),
    ] = None,
    router: Annotated[
        Path | None,
        typer.Option(help="Instead of a run: a trained router, asked for the preference itself."),
    ] = None,
    preference: Annotated[
        str | None,
        typer.Option(help="Importance of the tasks: mnist=0.7,animals=0.3, or 0.7,0.3 in order."),
    ] = None,
    by: Annotated[
        str, typer.Option(help="How to choose: weighted, asf, pseudo-weights or knee.")
    ] = "weighted",
    subject_to: Annotated[
        str | None, typer.Option(help="Conditions on metrics: 'mnist>=0.95,animals>=0.4'.")
    ] = None,
    point: Annotated[
        int | None, typer.Option(help="Number of the point in front.csv, instead of a preference.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Task whose head goes into the checkpoint.")
    ] = None,
    problem: Annotated[
        str | None, typer.Option(help="Of a study: title or fingerprint of the problem.")
    ] = None,
    algorithm: Annotated[
        list[str] | None, typer.Option(help="Of a study: take models of this algorithm only.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Of a study: take runs under this budget only.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    form: Form = "model",
    how: How = None,
    rank: Rank = None,
    force: Annotated[bool, typer.Option(help="Replace an existing export.")] = False,
) -> None:
    """Write one model of a front as an ordinary checkpoint.

    The model is the one that maximises the preference on the measured search values. In float32
    it reproduces the recorded metrics exactly when loaded back with transformers. With --router it
    is what the router makes of the preference, also where nothing was measured. With --as adapter
    a merge of LoRA adapters is written as one, for peft.
    """
    options: dict[str, Any] = {
        "head": head,
        "dtype": dtype,
        "adapter": adapter_options(form, how, rank),
        "rank": rank,
        "force": force,
    }
    if router is not None:
        others = (run, subject_to, point, problem, algorithm, budget)
        if by != "weighted" or any(value is not None for value in others):
            raise ConfigurationError(
                "--router makes one model from a preference; beside it go only --preference, --to, "
                "--head, --dtype, --as, --how, --rank and --force"
            )
        _show_exported(_from_router(router, preference, to, options))
        screen.print("nothing was measured: a router answers preferences that nobody has tried")
        return
    if run is None:
        raise ConfigurationError(
            "say what to export from: a run folder, the store of a study, or --router FILE"
        )
    if preference is None and point is None and subject_to is None and by != "knee":
        raise ConfigurationError(
            "say which model: --preference mnist=0.7,animals=0.3, --subject-to 'mnist>=0.9', "
            "--by knee, or --point 3"
        )
    from moofusion.comparison import SearchResult, StudyData, pooled_result

    with err.status(f"exporting from {run} ..."):
        if run.is_file():
            data = StudyData.read(run)
            result = pooled_result(data, problem, algorithms=algorithm or (), budget=budget)
        elif problem or algorithm or budget:
            raise ConfigurationError(
                f"--problem, --algorithm and --budget select from a study, but {run} is not a file"
            )
        else:
            result = SearchResult.load(run)
        index, how = result.pick(preference, by, subject_to, point)
        done = result.export(to, preference, by=by, subject_to=subject_to, point=point, **options)
    _show_exported(done)
    front = result.front
    for split in front.splits:
        values = zip(front.tasks, front.metrics, front.values(split)[index], strict=True)
        shown = ", ".join(f"{task} {metric.text(value)}" for task, metric, value in values)
        screen.print(f"{split}: {shown}", soft_wrap=True, highlight=False)
    screen.print(f"point {index + 1} of {len(front)}, {how}", soft_wrap=True, highlight=False)


def _from_router(file: Path, preference: str | None, to: Path, options: dict[str, Any]) -> Exported:
    if preference is None:
        raise ConfigurationError("say for which preference: --preference mnist=0.7,animals=0.3")
    from moofusion.algorithms import ParetoRouter

    with err.status(f"exporting from {file} ..."):
        router = ParetoRouter.load(file)
        router.reopen()
        return router.export(preference, to, **options)


def _show_exported(done: Exported) -> None:
    screen.print(f"wrote {done.folder} with the head of [bold]{done.head}[/]", soft_wrap=True)
    if done.other_heads:
        screen.print(f"other heads in {done.folder}/heads: {', '.join(done.other_heads)}")
