"""Runs for the tests of search, export and the command line: small problems, a captured CLI."""

from __future__ import annotations

import contextlib
import csv
import io
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np

import moofusion.cli

VISION = ("vision4", "--tasks", "animals,objects")


def cli(*args):
    """Run the command line in this process: exit code, standard output and error."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["moofusion", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            moofusion.cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def start_cli(*args):
    """Start the command line in a process of its own."""
    call = "from moofusion.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", call, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell ignores Ctrl-C and hands that on to its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def write_problem(folder, vit_folders, images, *, tasks=("dots", "bars"), splits=None):
    """A problem file on the tiny models, with its data beside it. Returns the file."""
    lines = ['title = "toy"', "[pool]", f'base = "{vit_folders.base}"', "[pool.experts]"]
    lines += [f'{name} = "{vit_folders.experts[name]}"' for name in tasks]
    for name in tasks:
        data = images[name]
        arrays = {"classes": np.array(data.classes)}
        for split in splits or data.items:
            arrays |= {f"{split}_images": data.items[split], f"{split}_labels": data.labels[split]}
        np.savez(folder / f"{name}.npz", **arrays)
        lines += ["[[tasks]]", f'name = "{name}"', 'kind = "image-classification"']
        lines += [f'data = "{name}.npz"', "batch_size = 20"]
    file = folder / "toy.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(path):
    """The text of an evaluation log with its timing column taken out."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(path)]


def same_run(one, other):
    """Whether two run folders hold the same evaluations and the same front, bit for bit."""
    left, right = (folder / "front.csv" for folder in (one, other))
    log = "evaluations.csv"
    assert without_seconds(one / log) == without_seconds(other / log)
    assert left.read_bytes() == right.read_bytes()
    assert (one / "references.csv").read_bytes() == (other / "references.csv").read_bytes()
    return True
