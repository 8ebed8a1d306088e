"""Tables in four formats: digits, marks, escapes."""

import csv
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from moofusion.comparison.report.render import to_csv, to_html, to_latex, to_markdown
from moofusion.comparison.report.table import Column, Table


@pytest.fixture
def table():
    columns = (
        Column("name", "name", "text"),
        Column("hv", "HV", "spread", better="max"),
        Column("iqm", "IQM [95 %]", "interval", digits=2),
        Column("err", "error", digits=1, scale=100, better="min", panel=1),
        Column("n", "points", "count", panel=1),
        Column("extent", "extent", "several", digits=1, parts=("a", "b"), panel=1),
        Column("raw", "raw", "number", panel=None),
    )
    rows = (
        ("a_b|c", (0.5, 0.25), (0.5, 0.4, 0.6), 0.123, 3, (0.1, 0.2), 1 / 3),
        ("50 % & {x}", (0.50004, 0.0), (0.5, np.nan, np.nan), 0.2, 1234.5, (1.0, -0.0), 2.0),
        ("none", None, None, float("nan"), 0, (np.inf, -0.04), 3.0),
    )
    return Table("t", "A <title>", columns, rows, ("A note_1.",))


def test_people_see_rounded_numbers_in_panels(table):
    first, second = table.panels()
    assert first.texts() == [
        ["a_b|c", "0.5000 ± 0.2500", "0.50 [0.40, 0.60]"],
        ["50 % & {x}", "0.5000 ± 0.0000", "0.50"],
        ["none", "-", "-"],
    ]
    assert second.texts()[0] == ["a_b|c", "12.3", "3", "0.1, 0.2"]
    assert second.texts()[1][2:] == ["1,234.5", "1.0, 0.0"]
    assert second.texts()[2][1:] == ["-", "0", "-, 0.0"]


def test_equal_as_printed_is_equally_good(table):
    # 0.5 and 0.50004 print alike, so neither stands out; 12.3 beats 20.0.
    assert table.panels()[0].marked() == set()
    assert table.panels()[1].marked() == {(0, 1)}
    by_row = Table(
        "t",
        "t",
        (Column("p", "p", "text"), *(Column(c, c, "spread", better="max") for c in "abc")),
        (("x", (1.0, 0.1), (2.0, 0.1), (2.0, 0.3)), ("y", (3.0, 0.1), None, (1.0, 0.0))),
        best_in="rows",
    )
    assert by_row.marked() == {(0, 2), (0, 3), (1, 1)}


def test_csv_reads_back_bit_for_bit(table):
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert list(rows[0]) == [
        "name", "hv", "hv_sd", "iqm", "iqm_low", "iqm_high", "err", "n", "extent:a", "extent:b",
        "raw",
    ]  # fmt: skip
    assert rows[0]["name"] == "a_b|c"
    assert float(rows[0]["raw"]) == 1 / 3
    assert float(rows[1]["hv"]) == 0.50004
    assert (rows[1]["iqm_low"], rows[2]["hv"], rows[2]["err"]) == ("", "", "")


def test_markdown_has_equal_rows_and_escapes(table):
    text = to_markdown(table)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    counts = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert counts == [4] * 5 + [5] * 5
    assert r"a_b\|c" in text
    assert r"A \<title\>" in text
    assert "**12.3**" in text
    assert text.count("A note_1.") == 1


def test_latex_is_balanced_booktabs(table):
    check_latex(to_latex(table))
    text = to_latex(table)
    assert r"50 \% \& \{x\}" in text
    assert r"\textbf{12.3}" in text
    assert text.count(r"\begin{tabular}") == 2
    assert "±" not in text


def check_latex(text):
    """Environments and braces are closed, rows are as wide as their table, rules are booktabs."""
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    plain = re.sub(r"\\[{}\\%&$#_]", "", "\n".join(text.splitlines()[1:]))
    depth = 0
    for letter in plain:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0
    assert not re.search(r"[#^%]", plain)
    for body in re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", text, re.S):
        spec = re.match(r"\{([lr]+)\}", body).group(1)
        assert "|" not in spec
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) >= 2
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(spec) - 1}
        assert [body.count(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 1, 1]


class _Tags(HTMLParser):
    void = ("img", "meta", "br", "input")

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_well_formed_and_escaped(table):
    parser = _Tags()
    parser.feed(to_html(table))
    assert parser.open == []
    assert "A <title>" in parser.text
    assert "a_b|c" in parser.text


def test_infinite_and_missing_values_are_never_best():
    column = Column("x", "x", better="min")
    table = Table("t", "t", (Column("n", "n", "text"), column), (("a", math.inf), ("b", 1.0)))
    assert table.texts() == [["a", "-"], ["b", "1.0000"]]
    assert table.marked() == set()
