"""What a searched parameter of a merge method may be: a number, a whole number, a choice.

Algorithms see one real variable for each; a range says which value a variable stands for.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moofusion.errors import ConfigurationError

__all__ = ["Choice", "Integer", "Range", "Real", "ShareOrCount", "range_from", "shown"]

#: Real parameters are rounded to multiples of this, so that few values have to be prepared.
STEP = 0.01
# Decimals of a logarithm: 20 values for each power of ten.
_LOG_STEP = 0.05


class Range(ABC):
    """Values of one parameter, and the real variable that stands for them.

    Attributes:
        xl: Lower bound of the variable.
        xu: Upper bound of the variable.

    Example:
        >>> from moofusion.merging import make_method
        >>> density = make_method("ties").searchable["density"]
        >>> density.extremes
        (0.05, 1.0)
    """

    xl: float
    xu: float

    @property
    @abstractmethod
    def extremes(self) -> tuple[Any, ...]:
        """Values at which it is checked that the method can have them."""

    @property
    @abstractmethod
    def middle(self) -> Any:
        """A value in the middle, for parameters without a value of their own."""

    @abstractmethod
    def value(self, x: float) -> Any:
        """The value that a variable stands for; beyond the bounds the nearest one."""

    @abstractmethod
    def variable(self, value: Any) -> float:
        """The variable of a value; of one outside the range, that of the nearest or first."""

    @abstractmethod
    def over(self, name: str, given: Sequence[Any]) -> Range:
        """The range of the same kind over what a user gives for parameter `name`.

        Raises:
            ConfigurationError: It is not what this kind takes.
        """

    @property
    @abstractmethod
    def table(self) -> dict[str, Any]:
        """The range as JSON (see :func:`range_from`)."""


@dataclass(frozen=True)
class Real(Range):
    """Numbers between two bounds.

    Args:
        low: Least value.
        high: Largest value.
        log: Whether the variable is the decimal logarithm, rounded to 0.05; else values are
            rounded to multiples of 0.01.

    Example:
        >>> Real(0.1, 0.9).value(0.3333)
        0.33
        >>> Real(1e-8, 1e-4, log=True).value(-6.01)
        1e-06
    """

    low: float
    high: float
    log: bool = False

    @property
    def xl(self) -> float:  # type: ignore[override]
        """Lower bound of the variable."""
        return math.log10(self.low) if self.log else self.low

    @property
    def xu(self) -> float:  # type: ignore[override]
        """Upper bound of the variable."""
        return math.log10(self.high) if self.log else self.high

    @property
    def extremes(self) -> tuple[float, ...]:
        """Both bounds."""
        return self.low, self.high

    @property
    def middle(self) -> float:
        """The value halfway between the bounds of the variable."""
        return self.value((self.xl + self.xu) / 2)

    def value(self, x: float) -> float:
        """The rounded number within the bounds."""
        if self.log:
            found = float(f"{10 ** round(round(x / _LOG_STEP) * _LOG_STEP, 10):.4g}")
        else:
            found = round(round(x / STEP) * STEP, 10)
        return min(max(found, self.low), self.high)

    def variable(self, value: float) -> float:
        """The number itself, or its logarithm, within the bounds."""
        inside = min(max(float(value), self.low), self.high)
        return math.log10(inside) if self.log else inside

    def over(self, name: str, given: Sequence[Any]) -> Range:
        """Between two numbers, lower < upper."""
        low, high = _two_numbers(name, given, "numbers", self.extremes)
        if self.log and low <= 0:
            raise ConfigurationError(
                f"bounds of merge parameter {name!r}, which is searched by its logarithm, must be "
                f"positive, got {low} and {high}"
            )
        return Real(float(low), float(high), self.log)

    @property
    def table(self) -> dict[str, Any]:
        """Kind and bounds."""
        return {"kind": "log" if self.log else "real", "values": [self.low, self.high]}

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Integer(Range):
    """Whole numbers between two bounds, both included.

    The variable is rounded; it reaches half a step beyond either bound, so that every value has an
    equal part of it.

    Args:
        low: Least value.
        high: Largest value.

    Example:
        >>> [Integer(0, 3).value(x) for x in (-0.5, 1.6, 3.5)]
        [0, 2, 3]
    """

    low: int
    high: int

    @property
    def xl(self) -> float:  # type: ignore[override]
        """Lower bound of the variable."""
        return self.low - 0.5

    @property
    def xu(self) -> float:  # type: ignore[override]
        """Upper bound of the variable."""
        return self.high + 0.5

    @property
    def extremes(self) -> tuple[int, ...]:
        """Both bounds."""
        return self.low, self.high

    @property
    def middle(self) -> int:
        """The value in the middle."""
        return (self.low + self.high) // 2

    def value(self, x: float) -> int:
        """The nearest whole number within the bounds."""
        return min(max(math.floor(x + 0.5), self.low), self.high)

    def variable(self, value: float) -> float:
        """The number itself."""
        return float(self.value(value))

    def over(self, name: str, given: Sequence[Any]) -> Range:
        """Between two whole numbers, lower < upper."""
        low, high = _two_numbers(name, given, "whole numbers", self.extremes)
        for value in (low, high):
            if not isinstance(value, int):
                raise ConfigurationError(
                    f"bounds of merge parameter {name!r} must be whole numbers, got {low} and "
                    f"{high}"
                )
        return Integer(int(low), int(high))

    @property
    def table(self) -> dict[str, Any]:
        """Kind and bounds."""
        return {"kind": "integer", "values": [self.low, self.high]}

    def __str__(self) -> str:
        return f"{self.low} to {self.high}, whole"


@dataclass(frozen=True)
class ShareOrCount(Real):
    """A share in (0, 1], or a number of things from 2 on; bounds say which is searched.

    Example:
        >>> ShareOrCount(0.1, 1.0).over("rank", [4, 64])
        Integer(low=4, high=64)
    """

    def over(self, name: str, given: Sequence[Any]) -> Range:
        """Shares where a bound is 1 or less, whole numbers where both are above."""
        low, high = _two_numbers(name, given, "shares or whole numbers", self.extremes)
        if low > 1:
            return Integer(2, 3).over(name, given)
        if high > 1:
            raise ConfigurationError(
                f"bounds of merge parameter {name!r} must be two shares in (0, 1], or two whole "
                f"numbers from 2 up, got {low} and {high}"
            )
        return Real(float(low), float(high))


@dataclass(frozen=True)
class Choice(Range):
    """One of some names, or off and on.

    The variable is the place in the list, rounded; every option has an equal part of it.

    Args:
        options: The options.

    Example:
        >>> Choice(("model", "tensor")).value(0.8)
        'tensor'
    """

    options: tuple[Any, ...]

    @property
    def xl(self) -> float:  # type: ignore[override]
        """Lower bound of the variable."""
        return -0.5

    @property
    def xu(self) -> float:  # type: ignore[override]
        """Upper bound of the variable."""
        return len(self.options) - 0.5

    @property
    def extremes(self) -> tuple[Any, ...]:
        """All options."""
        return self.options

    @property
    def middle(self) -> Any:
        """The first option."""
        return self.options[0]

    def value(self, x: float) -> Any:
        """The option whose place is nearest."""
        return self.options[min(max(math.floor(x + 0.5), 0), len(self.options) - 1)]

    def variable(self, value: Any) -> float:
        """The place of the option; 0 for what is none."""
        return float(self.options.index(value)) if value in self.options else 0.0

    def over(self, name: str, given: Sequence[Any]) -> Range:
        """Two or more of the options."""
        known = [(type(option), option) for option in self.options]
        for option in given:
            if (type(option), option) not in known:
                raise ConfigurationError(
                    f"merge parameter {name!r} is searched among {_listed(self.options)}; "
                    f"got {_listed(given)}"
                )
        if len(given) < 2 or len(set(given)) < len(given):
            raise ConfigurationError(
                f"merge parameter {name!r} is searched among two or more different options of "
                f"{_listed(self.options)}; got {_listed(given)}"
            )
        return Choice(tuple(given))

    @property
    def table(self) -> dict[str, Any]:
        """Kind and options."""
        return {"kind": "choice", "values": list(self.options)}

    def __str__(self) -> str:
        return ", ".join(map(shown, self.options))


def range_from(table: Mapping[str, Any]) -> Range:
    """The range of a :attr:`Range.table`.

    Example:
        >>> range_from({"kind": "integer", "values": [0, 9]})
        Integer(low=0, high=9)
    """
    kind, values = table["kind"], table["values"]
    if kind == "choice":
        return Choice(tuple(values))
    low, high = values
    return Integer(low, high) if kind == "integer" else Real(low, high, log=kind == "log")


def shown(value: Any) -> str:
    """A value as a problem file has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(values: Sequence[Any]) -> str:
    return f"[{', '.join(map(shown, values))}]"


def _two_numbers(
    name: str, given: Sequence[Any], what: str, example: tuple[float, ...]
) -> tuple[float, float]:
    """Lower and upper bound; whole numbers stay whole numbers."""
    numbers = [v for v in given if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(given) != 2 or len(numbers) != 2:
        raise ConfigurationError(
            f"merge parameter {name!r} is searched between two {what}, such as "
            f"{_listed(example)}; got {_listed(given)}"
        )
    low, high = numbers
    if not low < high or not math.isfinite(high - low):
        raise ConfigurationError(
            f"bounds of merge parameter {name!r} must be lower < upper, got {low} and {high}"
        )
    return low, high
