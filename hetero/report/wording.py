"""How numbers are written, once for every writer."""

from __future__ import annotations

from collections.abc import Mapping

from hetero.report.model import Gate
from hetero.retrieval.intervals import Estimate

NONE = "–"

_RELATIONS = {"<=": "≤", ">=": "≥"}


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def bounds(estimate: Estimate) -> str:
    """'34.1–37.5', in percent."""
    return f"{percent(estimate.low)}–{percent(estimate.high)}"


def scored(estimate: Estimate) -> str:
    """'35.8 (34.1–37.5)', in percent."""
    return f"{percent(estimate.value)} ({bounds(estimate)})"


def points(estimate: Estimate, digits: int = 1) -> str:
    """A difference: '-0.3 (-0.9 to +0.2)', in percentage points."""
    value, low, high = (
        f"{round(100 * x, digits) + 0.0:+.{digits}f}" for x in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})"


def count(number: int | None) -> str:
    """1234567 -> '1.23 M'."""
    if number is None:
        return NONE
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def counts(numbers: Mapping[str, int]) -> str:
    """{'CONV_2D': 3, 'MEAN': 1} -> '3 CONV_2D, 1 MEAN'."""
    return ", ".join(f"{number} {name}" for name, number in numbers.items()) or "none"


def quantity(number: float | None, digits: int = 3) -> str:
    """Three significant digits without an exponent where one can do without."""
    if number is None:
        return NONE
    return f"{number:.0f}" if abs(number) >= 10**digits else f"{number:.{digits}g}"


def measured(gate: Gate) -> str:
    """The gate's value, with the digits that tell 0.99989 from 0.9999 where values crowd below 1."""
    return quantity(gate.value, 8 if 0.99 < abs(gate.value) < 1 else 4)


def requirement(gate: Gate) -> str:
    """'≤ 0.01'."""
    return f"{_RELATIONS.get(gate.relation, gate.relation)} {quantity(gate.threshold, 6)}"
