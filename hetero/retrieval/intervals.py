"""How sure a number is: bootstrap intervals over queries, paired differences, McNemar's exact test.

Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, §13.3). Queries of one
class share gallery images and so err together; `clusters` resamples whole classes instead of queries, which
is the honest, wider interval when the question is "and on other classes?".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hetero.retrieval.evaluation import PerQuery
from hetero_devices.errors import DataError

Values = npt.NDArray[np.float64]
Clusters = npt.NDArray[np.int64]

RESAMPLES = 2_000
CONFIDENCE = 0.95
_BLOCK_DRAWS = 2**21  # indices drawn at once: bounds memory at about 50 MB


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """a - b over the same queries. wins, losses: queries on which a is better, worse.

    p_value: two-sided, of no difference, by the test named.
    """

    difference: Estimate
    p_value: float
    wins: int
    losses: int
    test: Literal["McNemar exact", "paired bootstrap"]


def bootstrap(
    values: Values,
    *,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Mean of `values`, float64 [Q], with its interval over queries, or over `clusters`, int64 [Q]."""
    return bootstrap_columns(
        values[:, None], clusters=clusters, resamples=resamples, confidence=confidence, seed=seed
    )[0]


def bootstrap_columns(
    columns: Values,
    *,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[Estimate]:
    """`bootstrap` of each column of float64 [Q, M]; all share their resamples, so drawing is paid once."""
    means = resampled_means(columns, clusters=clusters, resamples=resamples, seed=seed)
    return [
        interval(float(value), draws, confidence)
        for value, draws in zip(columns.mean(axis=0), means.T, strict=True)
    ]


def interval(value: float, draws: Values, confidence: float = CONFIDENCE) -> Estimate:
    """The percentile interval of bootstrap `draws`, float64 [resamples], around `value`."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def resampled_means(
    columns: Values, *, clusters: Clusters | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Values:
    """Means of the columns of float64 [Q, M] over each resample: float64 [resamples, M]."""
    if not len(columns):
        raise DataError("no queries to resample")
    if resamples < 1:
        raise DataError(f"{resamples} resamples: at least 1 is needed")
    sums, sizes = _per_cluster(columns, clusters)
    generator = np.random.default_rng(seed)
    step = max(1, _BLOCK_DRAWS // len(sizes))
    blocks = (
        _draw(generator, min(step, resamples - start), len(sizes)) for start in range(0, resamples, step)
    )
    return np.concatenate([(times @ sums) / (times @ sizes)[:, None] for times in blocks])


def paired_difference(
    a: PerQuery,
    b: PerQuery,
    *,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """a - b, resampling the same queries on both sides.

    p-value: McNemar's exact test where both are 0/1 and queries count as independent (`clusters` is None),
    else twice the smaller share of resampled differences on one side of zero, (1 + n) / (1 + resamples).
    DataError unless both hold the same metric of the same queries in the same order.
    """
    check_paired(a, b)
    delta = a.values - b.values
    draws = resampled_means(delta[:, None], clusters=clusters, resamples=resamples, seed=seed)[:, 0]
    wins, losses = int((delta > 0).sum()), int((delta < 0).sum())
    difference = interval(float(delta.mean()), draws, confidence)
    if clusters is None and _binary(a.values) and _binary(b.values):
        return Comparison(difference, mcnemar(wins, losses), wins, losses, "McNemar exact")
    return Comparison(difference, _two_sided(draws), wins, losses, "paired bootstrap")


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value of McNemar's test: min(1, 2 P[Binomial(n, 1/2) <= min(wins, losses)]).

    n = wins + losses (McNemar, Psychometrika 1947). Summed in log space, so n may be in the millions.
    """
    n, fewer = wins + losses, min(wins, losses)
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(fewer + 1)]
    scale = max(logs)
    tail = math.log(math.fsum(math.exp(x - scale) for x in logs)) + scale - n * math.log(2)
    return min(1.0, 2 * math.exp(tail))


def check_paired(a: PerQuery, b: PerQuery) -> None:
    """Raise DataError unless a and b are one metric over the same queries."""
    if a.metric != b.metric:
        raise DataError(f"cannot compare {a.metric} with {b.metric}: compare one metric")
    if not np.array_equal(a.query_ids, b.query_ids):
        raise DataError(
            f"cannot pair {len(a.query_ids)} queries with {len(b.query_ids)} others: "
            "evaluate both sides on the same query ids, in the same order"
        )


def _per_cluster(columns: Values, clusters: Clusters | None) -> tuple[Values, Values]:
    """Sums [C, M] and sizes [C] of what is drawn as a whole; a query by itself without clusters."""
    if clusters is None:
        return columns, np.ones(len(columns))
    if len(clusters) != len(columns):
        raise DataError(f"{len(clusters)} cluster labels for {len(columns)} queries")
    _, member, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), columns.shape[1]))
    np.add.at(sums, member, columns)
    return sums, sizes.astype(np.float64)


def _draw(generator: np.random.Generator, resamples: int, count: int) -> Values:
    """How often each of `count` units is drawn in each resample: float64 [resamples, count]."""
    drawn = generator.integers(0, count, size=(resamples, count))
    drawn += np.arange(resamples)[:, None] * count
    return (
        np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)
    )


def _binary(values: Values) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _two_sided(draws: Values) -> float:
    smaller = min((draws <= 0).sum(), (draws >= 0).sum())
    return min(1.0, 2 * (1 + float(smaller)) / (1 + len(draws)))
