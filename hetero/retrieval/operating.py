"""Operating points: the threshold that lets in so many false acceptances, and what it accepts. Exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OperatingPoint:
    """Scores above `threshold` are accepted: `false_rate` of the negatives, `true_rate` of the positives."""

    threshold: float
    false_rate: float
    true_rate: float


def allowed(rate: float, negatives: int) -> int:
    """The largest number of accepted negatives whose share is at most `rate`."""
    if not 0 <= rate <= 1:
        raise DataError(f"{rate} is no rate: choose one between 0 and 1")
    count = min(negatives, math.floor(rate * negatives) + 1)
    return count if count / negatives <= rate else count - 1  # the product may round either way


def operating_point(positives: Floats, negatives: Floats, count: int, rate: float) -> OperatingPoint:
    """The point of highest true rate among those whose false rate is at most `rate`.

    positives: float32 [P]; negatives: float32 [M], descending, the highest M of `count`. The threshold is
    the highest negative that may not be accepted, so of tied negatives all or none are let in.
    DataError when M is too small for `rate`, or a side is empty.
    """
    if not len(positives) or not count:
        raise DataError(f"{len(positives)} positives and {count} negatives: an operating point needs both")
    accepted = allowed(rate, count)
    if accepted < count and accepted >= len(negatives):
        raise DataError(f"rate {rate:g} is beyond the {len(negatives)} highest negatives that were kept")
    threshold = float(negatives[accepted]) if accepted < count else -math.inf
    false = int(np.count_nonzero(negatives > threshold)) if accepted < count else count
    return OperatingPoint(threshold, false / count, float((positives > threshold).mean()))
