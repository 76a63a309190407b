"""Retrieval metrics: pure functions of a Ranking, one float64 value per query, NaN where nothing is relevant.

Ranks below are 0-based, r_1 < r_2 < ... < r_R those of the R relevant gallery rows of one query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.retrieval.ranking import BLOCK_BYTES, Ranking, rank
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

RECALL_AT_1 = "recall@1"
MAP = "map"
MAP_AT_R = "map@r"
R_PRECISION = "r-precision"

_DISPLAYED = {MAP: "mAP", MAP_AT_R: "mAP@R", R_PRECISION: "R-precision"}


@dataclass(frozen=True)
class PerQuery:
    """One metric, query by query. query_ids, labels: int64 [Q]; values: float64 [Q]; metric: its name."""

    metric: str
    query_ids: Ids
    labels: Ids
    values: Values

    @property
    def mean(self) -> float:
        return float(self.values.mean())


@dataclass(frozen=True)
class Evaluation:
    """Every metric of one search M(q, g), over the queries that can be answered.

    query_ids, labels: int64 [Q]. values: metric name -> float64 [Q]. skipped: queries left out because no
    gallery row is relevant to them; they enter no mean.
    """

    query_ids: Ids
    labels: Ids
    values: Mapping[str, Values]
    skipped: int

    def per_query(self, metric: str) -> PerQuery:
        """The values of one metric; DataError names the metrics there are."""
        if metric not in self.values:
            raise DataError(f"no metric {metric!r}: choose one of {', '.join(self.values)}")
        return PerQuery(metric, self.query_ids, self.labels, self.values[metric])

    @property
    def means(self) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self.values.items()}


def recall_at_k(ranking: Ranking, k: int) -> Values:
    """1 if a relevant row is among the first k, else 0: 1[r_1 < k].

    The cumulative match characteristic (CMC) at k, which retrieval papers call Recall@k
    (Jégou, Douze, Schmid, Product Quantization, TPAMI 2011); for k = 1 it is Precision@1.
    """
    answerable = ranking.relevant > 0
    hit = np.full(len(ranking), np.nan)
    hit[answerable] = ranking.ranks[ranking.offsets[:-1][answerable]] < k
    return hit


def average_precision(ranking: Ranking) -> Values:
    """AP = (1/R) sum_i i / (r_i + 1), over the full list; its mean over queries is mAP.

    Manning, Raghavan, Schütze, Introduction to Information Retrieval (2008), eq. 8.8, one query.
    """
    return _mean_over_relevant(ranking, _precisions(ranking))


def map_at_r(ranking: Ranking) -> Values:
    """MAP@R = (1/R) sum_{i=1..R} P(i), P(i) = precision at i if the i-th hit is relevant, else 0.

    Musgrave, Belongie, Lim, A Metric Learning Reality Check (ECCV 2020), §3.2. AP cut at rank R.
    """
    return _mean_over_relevant(ranking, _precisions(ranking) * _within_r(ranking))


def r_precision(ranking: Ranking) -> Values:
    """Share of the first R hits that are relevant: (1/R) sum_i 1[r_i < R] (Manning et al. 2008, §8.4)."""
    return _mean_over_relevant(ranking, _within_r(ranking).astype(np.float64))


def metrics(ks: Sequence[int] = (1, 5, 10)) -> dict[str, Callable[[Ranking], Values]]:
    """Name -> function, in the order of a report: recall@k for each k, then map, map@r, r-precision."""
    table: dict[str, Callable[[Ranking], Values]] = {f"recall@{k}": _recall(k) for k in ks}
    return table | {MAP: average_precision, MAP_AT_R: map_at_r, R_PRECISION: r_precision}


def display_name(metric: str) -> str:
    """The name as readers know it: 'recall@1' -> 'Recall@1', 'map' -> 'mAP'."""
    return _DISPLAYED.get(metric, metric.replace("recall", "Recall"))


def evaluate(
    query: Embeddings,
    gallery: Embeddings,
    ks: Sequence[int] = (1, 5, 10),
    *,
    block_bytes: int = BLOCK_BYTES,
    across_spaces: bool = False,
) -> Evaluation:
    """M(query, gallery) for every metric; see `hetero.retrieval.rank` for memory, ties and exclusion.

    Raises DataError when no query has a relevant gallery row, SpaceMismatch as `rank` does.
    """
    return summarise(rank(query, gallery, block_bytes=block_bytes, across_spaces=across_spaces), ks)


def summarise(ranking: Ranking, ks: Sequence[int] = (1, 5, 10)) -> Evaluation:
    """Every metric of a ranking, queries without a relevant row left out and counted."""
    keep = ranking.relevant > 0
    if not keep.any():
        raise DataError(
            f"none of the {len(ranking)} queries has a gallery image of its class: check labels and split"
        )
    values = {name: metric(ranking)[keep] for name, metric in metrics(ks).items()}
    return Evaluation(ranking.query_ids[keep], ranking.labels[keep], values, int((~keep).sum()))


def _recall(k: int) -> Callable[[Ranking], Values]:
    return lambda ranking: recall_at_k(ranking, k)


def _precisions(ranking: Ranking) -> Values:
    """Precision at the rank of each relevant row: i / (r_i + 1), float64 [P]."""
    nth = np.arange(len(ranking.ranks)) - ranking.offsets[:-1][ranking.owners] + 1
    return nth / (ranking.ranks + 1)


def _within_r(ranking: Ranking) -> npt.NDArray[np.bool_]:
    return ranking.ranks < ranking.relevant[ranking.owners]


def _mean_over_relevant(ranking: Ranking, values: Values) -> Values:
    totals = np.bincount(ranking.owners, weights=values, minlength=len(ranking))
    means = np.full(len(ranking), np.nan)
    np.divide(totals, ranking.relevant, out=means, where=ranking.relevant > 0)
    return means
