"""Tables as Markdown, CSV, LaTeX (booktabs) and HTML."""

from __future__ import annotations

import csv
import html
import io
import re

from moofusion.comparison.report.table import Column, Table

__all__ = ["to_csv", "to_html", "to_latex", "to_markdown"]

_ARROWS = {"max": "↑", "min": "↓", None: ""}
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}
_NEGATIVE = re.compile(r"(?<![\w.)\]])-(?=\d)")


def _heads(table: Table) -> list[str]:
    return [f"{column.head} {_ARROWS[column.better]}".strip() for column in table.columns]


def _left(column: Column) -> bool:
    return column.kind == "text"


def to_markdown(table: Table, *, level: int = 3) -> str:
    """Heading, panels and notes in GitHub's Markdown.

    Args:
        table: The table.
        level: Level of the heading.
    """
    lines = [f"{'#' * level} {_markdown(table.title)}", ""]
    for panel in table.panels():
        marked = panel.marked()
        lines.append("| " + " | ".join(_markdown(head) for head in _heads(panel)) + " |")
        lines.append("|" + "|".join(":--" if _left(c) else "--:" for c in panel.columns) + "|")
        for i, row in enumerate(panel.texts()):
            cells = [
                f"**{_markdown(text)}**" if (i, j) in marked else _markdown(text)
                for j, text in enumerate(row)
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += [line for note in table.notes for line in (_markdown(note), "")]
    return "\n".join(lines)


def _markdown(text: str) -> str:
    # An underscore within a word stays what it is.
    return re.sub(r"([\\`*|<>#\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def to_csv(table: Table) -> str:
    """All columns with all digits; notes are left out."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([key for column in table.columns for key in column.csv_keys])
    for row in table.rows:
        pairs = zip(table.columns, row, strict=True)
        writer.writerow([_field(v) for column, value in pairs for v in column.csv_values(value)])
    return file.getvalue()


def _field(value: object) -> str:
    # repr of a numpy number names its type.
    return repr(float(value)) if isinstance(value, float) else str(value)


def to_latex(table: Table) -> str:
    """A ``table`` environment with booktabs rules, the notes in small print below."""
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering\\small",
        "\\setlength{\\tabcolsep}{4pt}",
        f"\\caption{{{_latex(table.title)}}}",
        f"\\label{{tab:{table.name}}}",
    ]
    for number, panel in enumerate(table.panels()):
        marked = panel.marked()
        if number:
            lines.append("\\par\\medskip")
        lines.append(
            "\\begin{tabular}{" + "".join("l" if _left(c) else "r" for c in panel.columns) + "}"
        )
        lines += ["\\toprule", " & ".join(map(_latex, _heads(panel))) + r" \\", "\\midrule"]
        for i, row in enumerate(panel.texts()):
            cells = [
                f"\\textbf{{{_latex(text)}}}" if (i, j) in marked else _latex(text)
                for j, text in enumerate(row)
            ]
            lines.append(" & ".join(cells) + r" \\")
        lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\\par\\smallskip{{\\footnotesize {_latex(note)}\\par}}" for note in table.notes]
    lines += ["\\end{table}", ""]
    return "\n".join(lines)


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    # A hyphen before a number is a minus sign.
    return _NEGATIVE.sub("$-$", escaped)


def to_html(table: Table) -> str:
    """A ``figure`` for the report page: scrolls sideways where it is too wide."""
    parts = [f'<figure class="table"><h3>{html.escape(table.title)}</h3>']
    for panel in table.panels():
        marked = panel.marked()
        kinds = [' class="text"' if _left(column) else "" for column in panel.columns]
        heads = "".join(
            f'<th scope="col"{kind}>{html.escape(head)}</th>'
            for kind, head in zip(kinds, _heads(panel), strict=True)
        )
        label = html.escape(table.title, quote=True)
        parts.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
            f"<table><thead><tr>{heads}</tr></thead><tbody>"
        )
        for i, row in enumerate(panel.texts()):
            cells = []
            for j, (kind, text) in enumerate(zip(kinds, row, strict=True)):
                shown = html.escape(text)
                if (i, j) in marked:
                    shown = f"<strong>{shown}</strong>"
                tag, scope = ("th", ' scope="row"') if j == 0 else ("td", "")
                cells.append(f"<{tag}{scope}{kind}>{shown}</{tag}>")
            parts.append(f"<tr>{''.join(cells)}</tr>")
        parts.append("</tbody></table></div>")
    if table.notes:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
        parts.append(f"<figcaption>{notes}</figcaption>")
    parts.append("</figure>")
    return "\n".join(parts)
