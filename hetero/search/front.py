"""The candidates that no other beats in reward and cost at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def front(items: Sequence[T], costs: Callable[[T], Sequence[float]], value: Callable[[T], float]) -> list[T]:
    """Items that no other beats: no item is as cheap in every cost and worth as much, and better in one.

    Ordered by rising first cost; of equal items the first stays.
    """
    kept: list[T] = []
    for item in sorted(items, key=lambda each: (*costs(each), -value(each))):
        if not any(_beats(costs(other), value(other), costs(item), value(item)) for other in kept):
            kept.append(item)
    return kept


def _beats(costs: Sequence[float], value: float, other_costs: Sequence[float], other_value: float) -> bool:
    cheaper = all(a <= b for a, b in zip(costs, other_costs, strict=True))
    return cheaper and value >= other_value
