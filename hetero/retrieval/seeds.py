"""Several training seeds of one method: spread, and intervals that know both seeds and queries.

Seeds and queries are crossed: every seed answers the same queries. A resample draws queries (or classes) once
for all seeds, and seeds with replacement; drawing queries anew for each seed would average their chance away
as if each seed had had its own test set. With three seeds the seeds' part of a bootstrap is rough; the
t-interval over seed means is given beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hetero.retrieval.evaluation import PerQuery
from hetero.retrieval.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Clusters,
    Estimate,
    check_paired,
    interval,
    resampled_means,
)
from hetero_devices.errors import DataError

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SeedSummary:
    """means: of each seed. sd: of those means, n - 1 in the denominator, 0 for one seed.

    over_seeds: Student's t interval of the mean, unbounded for one seed: another training run.
    over_both: bootstrap of seeds and queries: another training run, on other queries.
    """

    means: tuple[float, ...]
    mean: float
    sd: float
    over_seeds: Estimate
    over_both: Estimate


def across_seeds(
    runs: Sequence[PerQuery],
    *,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> SeedSummary:
    """Summarise one metric of several seeds over the same queries (DataError unless they are)."""
    if not runs:
        raise DataError("no seeds to summarise")
    for run in runs[1:]:
        check_paired(runs[0], run)
    columns = np.stack([run.values for run in runs], axis=1)  # [Q, S]
    means = columns.mean(axis=0)
    draws = _crossed(columns, clusters, resamples, seed)
    return SeedSummary(
        tuple(means.tolist()),
        float(means.mean()),
        float(means.std(ddof=1)) if len(means) > 1 else 0.0,
        t_interval(means, confidence),
        interval(float(means.mean()), draws, confidence),
    )


def difference_across_seeds(
    a: Sequence[PerQuery],
    b: Sequence[PerQuery],
    *,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> SeedSummary:
    """`across_seeds` of a - b, seed by seed and query by query: is method a better than b?"""
    if len(a) != len(b):
        raise DataError(f"{len(a)} seeds against {len(b)}: compare as many of each")
    for x, y in zip(a, b, strict=True):
        check_paired(x, y)
    deltas = [replace(x, values=x.values - y.values) for x, y in zip(a, b, strict=True)]
    return across_seeds(deltas, clusters=clusters, resamples=resamples, confidence=confidence, seed=seed)


def t_interval(means: Values, confidence: float = CONFIDENCE) -> Estimate:
    """mean ± t_{S-1} sd / sqrt(S) of the means of S seeds, float64 [S]; unbounded for one seed."""
    mean, count = float(means.mean()), len(means)
    if count == 1:
        return Estimate(mean, -math.inf, math.inf)
    half = _t_quantile((1 + confidence) / 2, count - 1) * float(means.std(ddof=1)) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half)


def _crossed(columns: Values, clusters: Clusters | None, resamples: int, seed: int) -> Values:
    """Means over drawn queries, then over drawn seeds: float64 [resamples]."""
    per_seed = resampled_means(columns, clusters=clusters, resamples=resamples, seed=seed)  # [B, S]
    count = columns.shape[1]
    chosen = np.random.default_rng([seed, 1]).integers(0, count, per_seed.shape)
    drawn: Values = np.take_along_axis(per_seed, chosen, axis=1).mean(axis=1)
    return drawn


def _t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t, by bisection of its distribution function."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _t_cdf(t: float, freedom: int) -> float:
    """P[T <= t] for t >= 0 and whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, cosine) if odd else (1.0, 1.0)
    for i in range(2 if odd else 1, freedom - 1, 2):
        term *= i / (i + 1) * cosine**2
        total += term
    if not odd:
        return 0.5 + sine * total / 2
    return 0.5 + (angle + (sine * total if freedom > 1 else 0.0)) / math.pi
