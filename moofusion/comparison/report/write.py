"""Write a report: tables, figures, one Markdown file, one page."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from moofusion.comparison.report.across import across_tables, families
from moofusion.comparison.report.figures import Picture, draw_figures
from moofusion.comparison.report.footer import Footer, footer
from moofusion.comparison.report.page import has_plotly, render_page
from moofusion.comparison.report.render import to_csv, to_latex, to_markdown
from moofusion.comparison.report.runs_table import runs_table
from moofusion.comparison.report.scores import Section, sections
from moofusion.comparison.report.table import Table
from moofusion.comparison.report.tables import problem_tables
from moofusion.comparison.study_data import StudyData
from moofusion.errors import RunError

__all__ = ["write_report"]

_CONTENTS = "contents.json"


def write_report(study: str | Path, out: str | Path, *, force: bool = False) -> Path:
    """Write tables, figures and the report page of a study.

    The folder holds ``report.html`` (one file, opens anywhere), ``report.md``, ``tables/``
    (Markdown, CSV with all digits, LaTeX), ``figures/`` (PNG, SVG) and ``contents.json``. The same
    study gives the same bytes. Measured seconds, which differ between machines, are only in the
    files that ``contents.json`` lists as ``"timed"``.

    Without plotly the page is left out, with a warning that says how to get it.

    Args:
        study: The store of the study; it may be in use, unfinished runs are left out.
        out: Folder to write; it must be empty or missing, unless `force`.
        force: Replace an earlier report.

    Returns:
        Path of ``report.html``, or of ``report.md`` without plotly.

    Raises:
        RunError: There is no such study, it has no finished run, or the folder holds something
            else.
    """
    study, out = Path(study), Path(out)
    _check_folder(out, force)
    data = StudyData.read(study)
    found = sections(data)
    if not found:
        raise RunError(
            f"{study} has no finished run yet; run the study to its end (or let one run finish) "
            "and write the report then"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            # Written aside first: a report is whole or not there.
            _write(data, study, found, Path(folder))
            _replace(out, Path(folder))
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error}") from error
    if (out / "report.html").exists():
        return out / "report.html"
    warnings.warn(
        "report.html was left out, since plotly is not installed: pip install "
        "'moofusion[report]' and write the report again",
        UserWarning,
        stacklevel=2,
    )
    return out / "report.md"


def _write(data: StudyData, study: Path, found: list[Section], folder: Path) -> None:
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    groups = families(found)
    tables = {section.slug: problem_tables(section) for section in found}
    across = [table for group in groups for table in across_tables(group)]
    pictures = draw_figures(found, groups, folder / "figures")
    for table in [*across, *(table for listed in tables.values() for table in listed)]:
        _write_table(table, folder / "tables")
    _put(folder / "tables" / "runs.csv", to_csv(runs_table(found)))
    for section in found:
        front = section.front()
        if front is not None:
            front.to_csv(folder / "tables" / f"{section.slug}-front.csv")
    end = footer(data, study, found)
    for name, text in end.files.items():
        _put(folder / name, text)
    _put(folder / "report.md", _markdown(study, found, tables, across, pictures, end))
    timed = [t.name for listed in tables.values() for t in listed if t.timed]
    timed += [picture.name for picture in pictures if picture.timed]
    if has_plotly():
        page = render_page(
            found,
            study=study,
            tables=tables,
            across=across,
            pictures=pictures,
            figures=folder / "figures",
            footer=end,
        )
        _put(folder / "report.html", page)
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    contents = {
        "study": study.name,
        "files": [*files, _CONTENTS],
        "timed": [f for f in files if Path(f).stem in timed or f == "report.html"],
    }
    _put(folder / _CONTENTS, json.dumps(contents, indent=2) + "\n")


def _write_table(table: Table, folder: Path) -> None:
    _put(folder / f"{table.name}.md", to_markdown(table, level=1))
    _put(folder / f"{table.name}.csv", to_csv(table))
    _put(folder / f"{table.name}.tex", to_latex(table))


def _markdown(
    study: Path,
    found: Sequence[Section],
    tables: dict[str, list[Table]],
    across: Sequence[Table],
    pictures: Sequence[Picture],
    end: Footer,
) -> str:
    """All tables and figures in one file, but for what is timed, which is linked."""
    lines = [f"# Study {study.name}", ""]

    def add_pictures(slug: str | None) -> None:
        for p in pictures:
            if p.section == slug and not p.timed:
                lines.extend([f"![{p.alt}](figures/{p.name}.png)", "", f"*{p.alt}.*", ""])

    if across:
        lines += ["## All problems", "", *(to_markdown(table) for table in across)]
        add_pictures(None)
    for section in found:
        lines += [f"## {section.title}", ""]
        lines += [to_markdown(table) for table in tables[section.slug] if not table.timed]
        add_pictures(section.slug)
        links = [f"[{t.title}](tables/{t.name}.md)" for t in tables[section.slug] if t.timed]
        links += [
            f"[hypervolume against seconds](figures/{p.name}.png)"
            for p in pictures
            if p.section == section.slug and p.timed
        ]
        lines += ["Measured seconds stand apart: " + ", ".join(links) + ".", ""]
    return "\n".join([*lines, end.markdown()])


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _check_folder(out: Path, force: bool) -> None:
    """Nothing of a user's is ever overwritten unasked."""
    if out.is_file():
        raise RunError(f"{out} is a file; name a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / _CONTENTS).is_file():
        raise RunError(f"{out} holds other files than a report; choose another folder")
    if not force:
        raise RunError(f"{out} exists already; --force replaces it, or choose another folder")


def _replace(out: Path, written: Path) -> None:
    """Take the place of an earlier report; files that are not part of it stay."""
    if (out / _CONTENTS).is_file():
        try:
            listed = json.loads((out / _CONTENTS).read_text(encoding="utf-8"))["files"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{out / _CONTENTS} is damaged; delete the report or choose another folder"
            ) from error
        for name in listed:
            path = out / name
            if path.resolve().is_relative_to(out.resolve()):
                path.unlink(missing_ok=True)
    for path in sorted(written.rglob("*")):
        if path.is_file():
            target = out / path.relative_to(written)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
