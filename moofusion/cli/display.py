"""What the command line shows: consoles, warnings."""

from __future__ import annotations

import shlex
import sys
import warnings
from typing import TextIO

from rich.console import Console

from moofusion.errors import EvaluationWarning

__all__ = ["command_line", "err", "escape", "screen", "show_warning"]

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


def escape(text: str) -> str:
    """Text whose brackets are not markup."""
    return text.replace("[", r"\[")
