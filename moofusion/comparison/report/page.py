"""The report page: one HTML file that needs nothing else, with interactive figures by plotly."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import struct
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from moofusion.comparison.report.figures import Picture
from moofusion.comparison.report.footer import Footer
from moofusion.comparison.report.payload import section_data
from moofusion.comparison.report.render import to_html
from moofusion.comparison.report.scores import AXES, Section
from moofusion.comparison.report.table import Table

__all__ = ["has_plotly", "render_page"]

_SCRIPTS = ("page_choose.js", "page_routers.js", "page_charts.js", "page.js")
# Figures are drawn at 150 dots per inch, pages at 96.
_SHRINK = 96 / 150


def has_plotly() -> bool:
    """Whether plotly is installed, from which the page takes its interactive figures."""
    return importlib.util.find_spec("plotly") is not None


def render_page(
    sections: Sequence[Section],
    *,
    study: Path,
    tables: dict[str, list[Table]],
    across: Sequence[Table],
    pictures: Sequence[Picture],
    figures: Path,
    footer: Footer,
) -> str:
    """The whole page as text.

    Args:
        sections: The problems.
        study: The store of the study, as commands are to name it.
        tables: Tables of each problem, by slug.
        across: Tables about all problems.
        pictures: Figures that were drawn.
        figures: Folder where they are.
        footer: What is needed to make it again.
    """
    import jinja2

    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    ).from_string(_source("page.html"))

    def shown(slug: str | None) -> list[dict[str, Any]]:
        chosen = [p for p in pictures if p.section == slug and not p.interactive]
        return [_embedded(p, figures) for p in chosen]

    data = {"sections": [section_data(section, study) for section in sections]}
    return template.render(
        title=f"Study {study.name}",
        summary=_summary(sections),
        css=_source("page.css"),
        axes=AXES,
        sections=[
            {
                "title": section.title,
                "tables": [to_html(table) for table in tables[section.slug]],
                "pictures": shown(section.slug),
            }
            for section in sections
        ],
        across_tables=[to_html(table) for table in across],
        across_pictures=shown(None),
        footer=footer,
        # A closing tag within the data would end the script element.
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        plotly=_packed_plotly(),
        scripts=[_source(name) for name in _SCRIPTS],
    )


def _summary(sections: Sequence[Section]) -> str:
    problems, algorithms = len(sections), len({a for s in sections for a in s.algorithms})
    runs = sum(len(section.runs) for section in sections)
    budgets = ", ".join(dict.fromkeys(section.budget for section in sections))

    def count(number: int, noun: str) -> str:
        return f"{number} {noun}{'' if number == 1 else 's'}"

    return (
        f"{count(problems, 'problem')}, {count(algorithms, 'algorithm')}, {count(runs, 'run')}; "
        f"budget of a run: {budgets}"
    )


def _source(name: str) -> str:
    return (files("moofusion.comparison.report") / name).read_text(encoding="utf-8").rstrip("\n")


def _packed_plotly() -> str:
    """plotly.js, compressed to a third; the page unpacks it."""
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode()


def _embedded(picture: Picture, folder: Path) -> dict[str, Any]:
    content = (folder / f"{picture.name}.png").read_bytes()
    # The width of a PNG file stands in its header.
    (width,) = struct.unpack(">I", content[16:20])
    return {
        "data": base64.b64encode(content).decode(),
        "alt": picture.alt,
        "width": round(width * _SHRINK),
    }
