"""The command line: commands, progress, plain-language errors."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from moofusion.cli import baselines, bench, catalogue, merge, search, study
from moofusion.cli.display import err, escape, screen, show_warning
from moofusion.errors import MoofusionError

__all__ = ["app", "main"]

app = typer.Typer(
    name="moofusion",
    help="Model merging as multi-objective optimization.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(search.search)
app.command()(search.export)
app.command()(merge.merge)
app.command()(merge.import_recipe)
app.command()(merge.export_recipe)
app.command()(study.compare)
app.command()(study.status)
app.command()(study.report)
app.command()(bench.bench)
app.command()(catalogue.problems)
app.command()(catalogue.algorithms)
app.command()(catalogue.describe)

_zoo = typer.Typer(help="Build the offline models and data.", no_args_is_help=True)
_zoo.command("build")(catalogue.zoo_build)
app.add_typer(_zoo, name="zoo")

_baselines = typer.Typer(help="Train what merging is compared with.", no_args_is_help=True)
_baselines.command("train")(baselines.train)
app.add_typer(_baselines, name="baselines")


def main() -> None:
    """Entry point: errors of the user's end in one message, not in a traceback."""
    warnings.showwarning = show_warning
    try:
        app(prog_name="moofusion")
    except MoofusionError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)


def _version(value: bool) -> None:
    if value:
        from moofusion import __version__

        screen.print(f"moofusion {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Model merging as multi-objective optimization."""
