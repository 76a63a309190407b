"""From a histogram of a tensor's values to the range that its 8 bits shall cover: pure functions.

Rounding and clipping pull in opposite directions: a wide range rounds all values coarsely, a narrow one cuts
off the largest. Every function returns (low, high) with low <= 0 <= high, since zero must have a code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.recipes.recipe import CalibrationMethod
from hetero_devices.errors import RecipeError

BINS = 2048
_LEVELS = 256
_STEPS = 128  # candidates for the threshold are its multiples of 1/128
_NARROWEST = _STEPS // 8  # 1/8 of the range: there a bin is as wide as a level of a one-sided tensor

Range = tuple[float, float]
Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """counts: int64 [B], in equal bins over low..high (low <= 0 <= high), without the values that are zero.

    Zero is exact in every range, so it is neither rounded nor clipped; behind a ReLU it would outweigh all
    the rest.
    """

    low: float
    high: float
    counts: Counts

    @classmethod
    def empty(cls, low: float, high: float) -> Histogram:
        """Of no value yet, between these extremes and zero."""
        return cls(min(low, 0.0), max(high, 0.0), np.zeros(BINS, np.int64))

    def add(self, values: npt.NDArray[np.floating]) -> Histogram:
        """With these values counted as well; those outside low..high count in the outermost bins."""
        nonzero = values[values != 0].astype(np.float64)
        bins = ((nonzero - self.low) * (len(self.counts) / (self.high - self.low))).astype(np.int64)
        clipped = np.clip(bins, 0, len(self.counts) - 1)
        added = np.bincount(clipped, minlength=len(self.counts)).astype(np.int64)
        return Histogram(self.low, self.high, self.counts + added)

    @property
    def edges(self) -> Values:
        """float64 [B + 1]."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)


def clipping(method: CalibrationMethod, percentile: float) -> Callable[[Histogram], Range]:
    """The function of that name; RecipeError for an unknown method or a percentile not in (50, 100]."""
    if not 50 < percentile <= 100:
        raise RecipeError(f"calibration percentile is {percentile:g}: give one above 50 and at most 100")
    methods: dict[str, Callable[[Histogram], Range]] = {
        "minmax": by_extremes,
        "percentile": lambda histogram: by_percentile(histogram, percentile),
        "entropy": by_entropy,
        "mse": by_squared_error,
    }
    if method not in methods:
        raise RecipeError(f"there is no calibration method {method!r}: known are {', '.join(methods)}")
    return methods[method]


def by_extremes(histogram: Histogram) -> Range:
    """Everything: nothing is clipped (Jacob et al., 2018, arXiv 1712.05877, section 3.1)."""
    return histogram.low, histogram.high


def by_percentile(histogram: Histogram, percentile: float) -> Range:
    """The narrowest edges that keep `percentile` % of the values, cutting as many at either end.

    Wu et al., 2020, arXiv 2004.09602, section 3.3; theirs cuts absolute values, this one both ends, as
    activations here are quantised asymmetrically.
    """
    below = np.cumsum(histogram.counts)
    if not below[-1]:
        return by_extremes(histogram)
    cut = below[-1] * (100 - percentile) / 200
    first = int(np.searchsorted(below, cut, side="right"))
    last = int(np.searchsorted(below, below[-1] - cut, side="left"))
    return _with_zero(histogram.edges[first], histogram.edges[last + 1])


def by_squared_error(histogram: Histogram) -> Range:
    """The range of the least E[(x - q(x))^2] (Nagel et al., 2021, arXiv 2106.08295, equation 18).

    Values are taken to be uniform within a bin, over which the rounding error is integrated exactly.
    """
    edges, candidates = histogram.edges, _candidates(histogram)
    low, high = candidates[:, :1], candidates[:, 1:]
    centres = (edges[:-1] + edges[1:]) / 2
    beyond = np.maximum(0, centres - high) + np.maximum(0, low - centres)  # [candidates, B]
    steps = np.maximum((high - low) / (_LEVELS - 1), np.finfo(np.float64).tiny)
    rounding = steps**2 * _mean_rounding(edges / steps)
    errors = np.where(beyond > 0, beyond**2, rounding) @ histogram.counts.astype(np.float64)
    return _chosen(candidates, errors)


def _mean_rounding(edges: Values) -> Values:
    """Mean of (u - round(u))^2 between neighbouring edges, along the last axis: [..., B + 1] -> [..., B]."""
    nearest = np.rint(edges)
    integral = nearest / 12 + (edges - nearest) ** 3 / 3
    return np.diff(integral) / np.maximum(np.diff(edges), np.finfo(np.float64).tiny)


def by_entropy(histogram: Histogram) -> Range:
    """The range whose 256 levels keep the distribution best: least Kullback-Leibler divergence.

    Migacz, 8-bit inference with TensorRT, GTC 2017: the reference is the histogram with what is clipped
    moved into the outermost bins; the candidate spreads each level's count evenly over its filled bins.
    """
    candidates, width = _candidates(histogram), histogram.high - histogram.low
    if not histogram.counts.any():
        return by_extremes(histogram)
    bins = np.rint((candidates - histogram.low) / width * len(histogram.counts)).astype(np.int64)
    divergences = [_divergence(histogram.counts, first, last) for first, last in bins]
    return _chosen(candidates, np.array(divergences))


def _candidates(histogram: Histogram) -> Values:
    """float64 [C, 2]: low..high cut at +-t, for thresholds t from an eighth of the largest magnitude on."""
    largest = max(-histogram.low, histogram.high)
    thresholds = largest * np.arange(_NARROWEST, _STEPS + 1) / _STEPS
    return np.stack([np.maximum(histogram.low, -thresholds), np.minimum(histogram.high, thresholds)], axis=1)


def _chosen(candidates: Values, errors: Values) -> Range:
    """The candidate of the least error, the widest of equals."""
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    return float(candidates[best, 0]), float(candidates[best, 1])


def _divergence(counts: Counts, first: int, last: int) -> float:
    """KL(reference || candidate) for the bins first..last-1."""
    inside = counts[first:last].astype(np.float64)
    reference = inside.copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last:].sum()
    level = np.arange(len(inside)) * _LEVELS // len(inside)
    filled = np.bincount(level, inside > 0, _LEVELS)
    spread = np.bincount(level, inside, _LEVELS) / np.maximum(filled, 1)
    candidate = np.where(inside > 0, spread[level], 0)
    p, q = reference / reference.sum(), candidate / max(candidate.sum(), 1)
    there = p > 0
    return float((p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))).sum())


def _with_zero(low: float, high: float) -> Range:
    return min(float(low), 0.0), max(float(high), 0.0)
