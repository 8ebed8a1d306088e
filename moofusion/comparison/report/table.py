"""A table before it is written: typed columns, raw values, notes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

__all__ = ["Column", "Table"]

#: ``"text"``; ``"count"``: a number of things, or a mean of such numbers; ``"number"``;
#: ``"spread"``: (mean, standard deviation); ``"interval"``: (value, low, high);
#: ``"several"``: one number for each of `parts`.
Kind = Literal["text", "count", "number", "spread", "interval", "several"]

_MISSING = "-"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: Its name in CSV files.
        head: Its name for people.
        kind: What its values are.
        digits: Digits after the point, for people.
        scale: What numbers are multiplied with for people: 100 for percent.
        better: Which values are best: ``"max"``, ``"min"``, or None to mark none.
        parts: What the numbers of ``"several"`` are, for CSV files.
        panel: Number of the panel in which people see it; None: in CSV files only.
    """

    key: str
    head: str
    kind: Kind = "number"
    digits: int = 4
    scale: float = 1.0
    better: Literal["max", "min"] | None = None
    parts: tuple[str, ...] = ()
    panel: int | None = 0

    @property
    def csv_keys(self) -> tuple[str, ...]:
        """Names of the CSV columns that hold it."""
        ends = {
            "spread": ("", "_sd"),
            "interval": ("", "_low", "_high"),
            "several": tuple(f":{part}" for part in self.parts),
        }
        return tuple(self.key + end for end in ends.get(self.kind, ("",)))

    def csv_values(self, value: Any) -> tuple[Any, ...]:
        """A value as CSV fields; floats keep all digits."""
        if value is None:
            return ("",) * len(self.csv_keys)
        fields = value if self.kind in ("spread", "interval", "several") else (value,)
        return tuple("" if _is_nan(v) else v for v in fields)

    def text(self, value: Any) -> str:
        """A value for people, in plain ASCII but for the sign ±."""
        if value is None or _is_nan(value):
            return _MISSING
        if self.kind == "text":
            return str(value)
        if self.kind == "count":
            whole = abs(value - round(value)) < 1e-9
            return f"{value:,.0f}" if whole else f"{value:,.1f}"
        if self.kind == "number":
            return self._number(value)
        numbers = [self._number(v) for v in value]
        if self.kind == "several":
            return ", ".join(numbers)
        if numbers[1] == _MISSING:
            return numbers[0]
        if self.kind == "spread":
            return f"{numbers[0]} ± {numbers[1]}"
        return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"

    def rank_key(self, value: Any) -> float:
        """What decides which value is best, as people see it; infinite where nothing is."""
        if self.better is None or value is None:
            return math.inf
        number = value[0] if self.kind in ("spread", "interval") else value
        if not math.isfinite(number):
            return math.inf
        shown = round(float(number) * self.scale, self.digits)
        return -shown if self.better == "max" else shown

    def _number(self, value: float) -> str:
        if not math.isfinite(value):
            return _MISSING
        text = f"{value * self.scale:.{self.digits}f}"
        # A rounded-off negative number is zero.
        return text.lstrip("-") if float(text) == 0 else text


@dataclass(frozen=True)
class Table:
    """A table with its caption and notes.

    Attributes:
        name: Stem of its files.
        title: Caption.
        columns: Columns; the first names the rows and stands in every panel.
        rows: Raw values, one per column.
        notes: Sentences that stand below.
        best_in: Whether the best value is marked in each column or in each row.
        timed: Whether it holds measured seconds, which differ from machine to machine.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()
    best_in: Literal["columns", "rows"] = "columns"
    timed: bool = False

    def panels(self) -> list[Table]:
        """The parts that people see one below another; empty rows are left out of a part."""
        numbers = sorted({c.panel for c in self.columns if c.panel is not None})
        found = []
        for number in numbers:
            picked = [0] + [
                j for j, column in enumerate(self.columns) if j and column.panel == number
            ]
            rows = tuple(tuple(row[j] for j in picked) for row in self.rows)
            found.append(replace(self, columns=tuple(self.columns[j] for j in picked), rows=rows))
        return found

    def texts(self) -> list[list[str]]:
        """All values for people."""
        return [
            [column.text(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def marked(self) -> set[tuple[int, int]]:
        """Row and column of every best value, ties included; none where all are equal."""
        keys = [
            [column.rank_key(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]
        lines = [[(i, j) for i in range(len(self.rows))] for j in range(len(self.columns))]
        if self.best_in == "rows":
            lines = [[(i, j) for j in range(len(self.columns))] for i in range(len(self.rows))]
        return {place for line in lines for place in _best(line, keys)}


def _best(
    line: Sequence[tuple[int, int]], keys: Sequence[Sequence[float]]
) -> list[tuple[int, int]]:
    values = [(keys[i][j], (i, j)) for i, j in line if math.isfinite(keys[i][j])]
    if not values or min(values)[0] == max(values)[0]:
        return []
    lowest = min(values)[0]
    return [place for key, place in values if key == lowest]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
