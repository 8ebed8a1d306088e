"""The report page as a file: complete in itself, with the data that Python has."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import numpy as np

from moofusion.comparison import pooled_result


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.attributes, self.scripts, self.ids = [], {}, []
        self._script = None

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.attributes += [(tag, key, value) for key, value in attrs]
        self.ids += [named["id"]] if "id" in named else []
        if tag == "script":
            self._script = named.get("id", f"script {len(self.scripts)}")
            self.scripts[self._script] = ""

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script:
            self.scripts[self._script] += data


def parsed(report):
    elements = Elements()
    elements.feed(report.page.read_text(encoding="utf-8"))
    return elements


def test_no_address_of_anything_outside(report):
    text = report.page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|//[a-z0-9-]+\.[a-z]{2,}|@import|url\(", text, re.I)
    for tag, key, value in parsed(report).attributes:
        if key in ("src", "href", "action", "srcset", "data", "poster"):
            assert value.startswith("data:"), (tag, key, value[:60])
    assert "default-src 'none'" in text


def test_every_id_is_there_once_and_all_that_scripts_ask_for(report):
    elements = parsed(report)
    assert len(set(elements.ids)) == len(elements.ids)
    code = "".join(v for k, v in elements.scripts.items() if k.startswith("script"))
    made = {"recommended-label", "command"}
    wanted = set(re.findall(r'\bel\("([\w-]+)"\)', code))
    assert len(wanted) > 10
    assert wanted <= set(elements.ids) | made


def test_every_picture_has_a_text_and_every_control_a_name(report):
    text = report.page.read_text(encoding="utf-8")
    for image in re.findall(r"<img [^>]*>", text):
        assert re.search(r'alt="[^"]{20,}"', image), image[-200:]
    for select in re.finditer(r"<select id", text):
        before = text[: select.start()]
        assert before.rfind("<label") > before.rfind("</label>")


def test_plotly_is_packed_within(report):
    packed = parsed(report).scripts["plotly"]
    code = gzip.decompress(base64.b64decode(packed)).decode()
    assert "plotly.js v" in code[:200]
    assert len(report.page.read_bytes()) < 0.75 * len(code)


def test_data_of_the_page_is_that_of_python(report, data, parts):
    sections = json.loads(parsed(report).scripts["data"])["sections"]
    for found, section in zip(sections, parts.values(), strict=True):
        for entry in found["algorithms"]:
            front = pooled_result(data, section.title, algorithms=[entry["algorithm"]]).front
            # Objectives bit for bit, since models are chosen by them.
            assert [m["F"] for m in entry["models"]] == front.normalized().tolist()
            assert np.allclose([m["x"] for m in entry["models"]], front.X, rtol=1e-4)
            for split in front.splits:
                assert [m[split] for m in entry["models"]] == front.values(split).tolist()
        kinds = [r["kind"] for r in found["references"]]
        M = len(section.problem.tasks)
        assert kinds == ["base", *["expert"] * M, *["control"] * 4]


def test_tables_and_footer_are_on_the_page(report, parts):
    text = report.page.read_text(encoding="utf-8")
    for title in ("algorithms", "base, experts and merges without search", "seconds"):
        assert text.count(f": {title}</h3>") == 3
    assert f"{1:032x}" in text
    assert "moofusion report" in text
