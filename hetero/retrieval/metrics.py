"""Retrieval metrics: pure functions of a Ranking, one float64 value per query, NaN where nothing is relevant.

Ranks below are 0-based, r_1 < r_2 < ... < r_R those of the R relevant gallery rows of one query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from hetero.retrieval.ranking import Ranking
from hetero_devices.errors import DataError

Values = npt.NDArray[np.float64]
Metric = Callable[[Ranking], Values]

RECALL_AT_1 = "recall@1"
MAP = "map"
MAP_AT_R = "map@r"
R_PRECISION = "r-precision"
MRR = "mrr"
KNOWN = "recall@K, precision@K, ndcg@K, map, map@r, r-precision, mrr"  # K: any positive integer

_DISPLAYED = {MAP: "mAP", MAP_AT_R: "mAP@R", R_PRECISION: "R-precision", MRR: "MRR"}
_AT_K = {"recall": "Recall", "precision": "Precision", "ndcg": "nDCG"}


def recall_at_k(ranking: Ranking, k: int) -> Values:
    """1 if a relevant row is among the first k, else 0: 1[r_1 < k].

    The cumulative match characteristic (CMC) at k, which retrieval papers call Recall@k
    (Jégou, Douze, Schmid, Product Quantization, TPAMI 2011); for k = 1 it is Precision@1.
    """
    return _of_first(ranking, lambda first: (first < k).astype(np.float64))


def cmc(ranking: Ranking, ks: Sequence[int]) -> Values:
    """The cumulative match curve: mean `recall_at_k` over answerable queries at each of `ks`, float64 [K]."""
    first = ranking.ranks[ranking.offsets[:-1][ranking.relevant > 0]]
    if not len(first):
        raise DataError("no query has a relevant gallery row: there is no match to accumulate")
    return np.array([(first < k).mean() for k in ks])


def reciprocal_rank(ranking: Ranking) -> Values:
    """1 / (r_1 + 1); its mean over queries is MRR (Voorhees, The TREC-8 Question Answering Track, 1999)."""
    return _of_first(ranking, lambda first: 1 / (first + 1))


def precision_at_k(ranking: Ranking, k: int) -> Values:
    """Share of the first k hits that are relevant: (1/k) sum_i 1[r_i < k] (Manning et al. 2008, §8.4)."""
    return _sums(ranking, (ranking.ranks < k) / k)


def ndcg_at_k(ranking: Ranking, k: int) -> Values:
    """nDCG@k with binary gains: sum_{r_i < k} 1/log2(r_i + 2) over the same sum for r_i = i - 1.

    Järvelin and Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques (TOIS 2002), with the
    logarithmic discount of every rank that scikit-learn and trec_eval use.
    """
    discounts = np.where(ranking.ranks < k, 1 / np.log2(ranking.ranks + 2.0), 0)
    length = max(1, min(k, int(ranking.relevant.max(initial=1))))
    best: Values = np.cumsum(1 / np.log2(np.arange(length) + 2.0))
    ideal: Values = best[np.clip(ranking.relevant, 1, length) - 1]
    return _sums(ranking, discounts) / ideal


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


def trapezoid_average_precision(ranking: Ranking) -> Values:
    """AP by the trapezoid rule, (1/R) sum_i ((i - 1) / max(r_i, 1) + i / (r_i + 1)) / 2, 1 for (0 / 0).

    The AP of Oxford, Paris and their revisited protocols (Philbin et al., CVPR 2007; Radenović et al.,
    CVPR 2018), whose published mAP it reproduces; slightly below `average_precision`.
    """
    before = np.where(ranking.ranks > 0, (_nth(ranking) - 1) / np.maximum(ranking.ranks, 1), 1.0)
    return _mean_over_relevant(ranking, (before + _precisions(ranking)) / 2)


def metric(name: str) -> Metric:
    """The function of a metric's name, K being any positive integer; DataError names what there is."""
    whole: dict[str, Metric] = {
        MAP: average_precision,
        MAP_AT_R: map_at_r,
        R_PRECISION: r_precision,
        MRR: reciprocal_rank,
    }
    if name in whole:
        return whole[name]
    at_k = {"recall": recall_at_k, "precision": precision_at_k, "ndcg": ndcg_at_k}
    found = re.fullmatch(r"(recall|precision|ndcg)@([1-9]\d{0,8})", name)
    if not found:
        raise DataError(f"no metric {name!r}: choose one of {KNOWN}")
    function, k = at_k[found[1]], int(found[2])
    return lambda ranking: function(ranking, k)


def metrics(ks: Sequence[int] = (1, 5, 10)) -> dict[str, Metric]:
    """Name -> function, in the order of a report: recall@k for each k, then map, map@r, r-precision."""
    return {name: metric(name) for name in (*(f"recall@{k}" for k in ks), MAP, MAP_AT_R, R_PRECISION)}


def display_name(metric: str) -> str:
    """The name as readers know it: 'recall@1' -> 'Recall@1', 'map' -> 'mAP', 'ndcg@10' -> 'nDCG@10'."""
    kind, at, k = metric.partition("@")
    return _DISPLAYED.get(metric, _AT_K.get(kind, kind) + at + k)


def _of_first(ranking: Ranking, function: Callable[[npt.NDArray[np.int64]], Values]) -> Values:
    """A function of r_1, NaN where nothing is relevant."""
    answerable = ranking.relevant > 0
    values = np.full(len(ranking), np.nan)
    values[answerable] = function(ranking.ranks[ranking.offsets[:-1][answerable]])
    return values


def _nth(ranking: Ranking) -> npt.NDArray[np.int64]:
    """i of each r_i, from 1: int64 [P]."""
    return np.arange(len(ranking.ranks)) - ranking.offsets[:-1][ranking.owners] + 1


def _precisions(ranking: Ranking) -> Values:
    """Precision at the rank of each relevant row: i / (r_i + 1), float64 [P]."""
    return _nth(ranking) / (ranking.ranks + 1)


def _within_r(ranking: Ranking) -> npt.NDArray[np.bool_]:
    return ranking.ranks < ranking.relevant[ranking.owners]


def _sums(ranking: Ranking, values: Values) -> Values:
    """Sum of `values`, float64 [P], over the relevant rows of each query; NaN where there are none."""
    totals = np.bincount(ranking.owners, weights=values, minlength=len(ranking)).astype(np.float64)
    return np.where(ranking.relevant > 0, totals, np.nan)


def _mean_over_relevant(ranking: Ranking, values: Values) -> Values:
    return _sums(ranking, values) / np.maximum(ranking.relevant, 1)
