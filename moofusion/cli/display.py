"""What the command line shows: consoles, warnings."""

from __future__ import annotations

import shlex
import shutil
import sys
import warnings
from pathlib import Path
from typing import TextIO

from rich.console import Console

from moofusion.errors import EvaluationWarning

__all__ = ["command_line", "err", "escape", "program", "screen", "show_warning"]

screen = Console()
err = Console(stderr=True)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings of moofusion as one plain line, those of other packages as Python shows them."""
    if category in (UserWarning, EvaluationWarning):
        err.print(f"[yellow]warning:[/] {escape(str(message))}", soft_wrap=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def command_line() -> str:
    """The command that was typed, for the footer of reports."""
    return shlex.join(["moofusion", *sys.argv[1:]])


def program() -> str:
    """How this program is called from here: by its name, or where it is not on the path by file."""
    typed = Path(sys.argv[0])
    if typed.stem != "moofusion" or shutil.which("moofusion"):
        return "moofusion"
    here = Path.cwd()
    return str(typed.relative_to(here) if typed.is_relative_to(here) else typed)


def escape(text: str) -> str:
    """Text whose brackets are not markup."""
    return text.replace("[", r"\[")
