"""What the site adds to the pages: files of the repository that lie outside of docs/.

CHANGELOG.md and CONTRIBUTING.md become pages; notebooks are copied beside them. Links keep their
form in the repository, where they can be followed as well.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"\]\(((?:\.\./)+)([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the files outside of docs/ that pages may link to."""
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links that leave docs/ to the copies inside of the site."""
    depth = len(PurePosixPath(page.file.src_uri).parts) - 1

    def inside(match: re.Match[str]) -> str:
        ups = match[1].count("../")
        return f"]({'../' * depth}{match[2]})" if ups == depth + 1 else match[0]

    return LINK.sub(inside, markdown)
