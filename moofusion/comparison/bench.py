"""Published tables: study files that ship with the package, run and written by one command."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from moofusion.comparison.report.across import across_tables, families
from moofusion.comparison.report.footer import footer
from moofusion.comparison.report.render import to_csv, to_markdown
from moofusion.comparison.report.runs_table import runs_table
from moofusion.comparison.report.scores import sections
from moofusion.comparison.report.table import Table
from moofusion.comparison.report.tables import (
    algorithms_table,
    models_table,
    pairwise_table,
    problems_table,
)
from moofusion.comparison.study import Study
from moofusion.comparison.study_data import StudyData
from moofusion.comparison.study_spec import read_study
from moofusion.errors import RunError, UnknownNameError

__all__ = ["bench_about", "bench_names", "bench_study", "check_bench", "publish_bench"]

_FOLDER = Path(__file__).parent / "benches"
# What one run alone decides: all else in a row also depends on the other runs of its table.
_OWN = (
    "evaluations", "cost", "archive:hypervolume", "archive:n_points",
    "reported_search:hypervolume", "reported_test:hypervolume", "reported_test:n_points",
)  # fmt: skip


def bench_names() -> list[str]:
    """Names of the published tables.

    Example:
        >>> "sketches" in bench_names()
        True
    """
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def bench_about(name: str) -> str:
    """What a published table compares, as its study file says in the comment it begins with.

    Example:
        >>> bench_about("vision4")
        'All four tasks, where most evaluated merges are non-dominated.'
    """
    lines = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("# ") for line in takewhile(_is_comment, lines))


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def bench_study(name: str, store: str | Path, *, only: str | None = None) -> Study:
    """The study behind a published table, ready to run.

    Args:
        name: One of :func:`bench_names`.
        store: SQLite file of its runs; the same file goes on where it stopped.
        only: Title of one of its problems, without the others.

    Raises:
        UnknownNameError: There is no such table or problem.
    """
    if name not in bench_names():
        raise UnknownNameError("benchmark", name, bench_names())
    return read_study(_FOLDER / f"{name}.toml", store=store, only=only)


def publish_bench(name: str, store: str | Path, out: str | Path) -> list[Path]:
    """Write the tables of a study that has ended: ``NAME.md``, and ``NAME.csv`` with all digits.

    The same study gives the same bytes; seconds are left out.

    Args:
        name: One of :func:`bench_names`.
        store: The store (SQLite) of the study.
        out: Folder to write to.

    Raises:
        RunError: Runs are missing or failed.
    """
    data = StudyData.read(store)
    missing = sum(run.cell.status != "done" for run in data.runs)
    if missing or not data.runs:
        raise RunError(
            f"{missing} of {len(data.runs)} runs of {store} have not ended; the same command "
            "goes on with them"
        )
    found = sections(data)
    tables = [table for group in families(found) for table in across_tables(group)]
    if together := problems_table(found):
        tables.append(together)
    for section in () if together else found:
        tables += [algorithms_table(section), models_table(section)]
        if len(section.algorithms) > 1:
            tables.append(pairwise_table(section))
    command = f"moofusion bench {name}"
    lines = [
        f"# {name}", "", bench_about(name), "",
        f"Made by `{command}`, checked by `{command} --check`; all digits of all runs are in "
        f"[{name}.csv]({name}.csv).", "",
        *(to_markdown(table, level=2) for table in _notes_once(tables)),
        *(f"- {label}: {text}" for label, text in footer(data, Path(store), found).facts), "",
    ]  # fmt: skip
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    written = {f"{name}.md": "\n".join(lines), f"{name}.csv": to_csv(runs_table(found))}
    for file, text in written.items():
        (out / file).write_text(text, encoding="utf-8")
    return [out / file for file in written]


def _notes_once(tables: Iterable[Table]) -> Iterator[Table]:
    """The tables of one page; what a table above says already is not said again."""
    said: set[str] = set()
    for table in tables:
        yield replace(table, notes=tuple(note for note in table.notes if note not in said))
        said.update(table.notes)


def check_bench(
    name: str, published: str | Path, *, row: int = 0, threads: int | None = 1
) -> dict[str, tuple[str, str]]:
    """Run one run of a published table again, and compare its digits.

    Args:
        name: One of :func:`bench_names`.
        published: Folder that holds ``NAME.csv``.
        row: Which of its runs.
        threads: CPU threads; digits hold for the same kind of machine and as many threads.

    Returns:
        Published and new value of each quantity that differs; empty if all digits agree.

    Raises:
        RunError: The file or the row is missing, or the run is no part of the study any more.
    """
    file = Path(published) / f"{name}.csv"
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except OSError as error:
        raise RunError(
            f"published table {file} cannot be read: {error}. Make it first: moofusion bench {name}"
        ) from error
    if not 0 <= row < len(rows):
        raise RunError(f"{file} has {len(rows)} runs; there is no run {row}")
    old = rows[row]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = Path(folder) / "check.db"
        study = bench_study(name, store, only=old["problem"])
        study.only(old["problem"], old["algorithm"], int(old["seed"])).run(threads=threads)
        done = sections(StudyData.read(store))
        new = next(csv.DictReader(to_csv(runs_table(done)).splitlines()))
    keys = ("fingerprint", *_OWN)
    return {key: (old[key], new[key]) for key in keys if old[key] != new[key]}
