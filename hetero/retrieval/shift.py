"""How far a new model has moved from an old one: score distributions, and angles image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, check_same

Values = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """statistic: the Kolmogorov-Smirnov distance, in [0, 1]; p_value: asymptotic, of no difference."""

    statistic: float
    p_value: float


def score_shift(a: Floats, b: Floats) -> Shift:
    """Two-sample Kolmogorov-Smirnov test of scores, float [N] and [M]: max_x |F_a(x) - F_b(x)|.

    Say of genuine scores before and after an update: 0 means a threshold keeps its meaning. p-value by
    the limiting distribution with Stephens' correction for finite samples (JRSS B 1970).
    """
    if not len(a) or not len(b):
        raise DataError(f"{len(a)} and {len(b)} scores: a shift needs both")
    points = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(side), points, side="right") / len(side) for side in (a, b)]
    statistic = float(np.abs(shares[0] - shares[1]).max())
    root = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    return Shift(statistic, _kolmogorov((root + 0.12 + 0.11 / root) * statistic))


def angles(a: Embeddings, b: Embeddings) -> Values:
    """Angle in degrees between the two embeddings of each image, float64 [N]: a student's to its anchor's.

    2 atan2(|a - b|, |a + b|) (Kahan, How Futile are Mindless Assessments of Roundoff, 2006, §12), which keeps
    small angles that the arc cosine loses. Both must embed the same images in one space (SpaceMismatch).
    """
    check_same(a.space, b.space, "first", "second")
    if not np.array_equal(a.ids, b.ids):
        raise DataError("the two sides embed different images: embed one list with both models")
    found = np.empty(len(a))
    for start in range(0, len(a), 16_384):
        x, y = (side.vectors[start : start + 16_384].astype(np.float64) for side in (a, b))
        found[start : start + len(x)] = 2 * np.arctan2(
            np.linalg.norm(x - y, axis=1), np.linalg.norm(x + y, axis=1)
        )
    return np.degrees(found)


def _kolmogorov(x: float) -> float:
    """P[K > x] of Kolmogorov's distribution: 2 sum_j (-1)^(j-1) exp(-2 j^2 x^2)."""
    if x < 0.2:
        return 1.0  # the series converges slowly there, to 1 within 1e-12
    total = 2 * math.fsum((-1) ** (j - 1) * math.exp(-2 * j * j * x * x) for j in range(1, 101))
    return min(1.0, max(0.0, total))
