"""Metrics at any k against scikit-learn and naive definitions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from hetero.retrieval import (
    Ranking,
    cmc,
    display_name,
    metric,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
    trapezoid_average_precision,
)
from hetero_devices.errors import DataError

CANDIDATES = 30


def ranking(*queries: Iterable[int]) -> Ranking:
    ranks = [sorted(query) for query in queries]
    ids = np.arange(len(ranks))
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in ranks])]).astype(np.int64)
    flat = np.array([r for query in ranks for r in query], np.int64)
    return Ranking(ids, ids, np.full(len(ranks), CANDIDATES), offsets, flat)


def random_ranking(seed: int) -> Ranking:
    generator = np.random.default_rng(seed)
    return ranking(*(generator.permutation(CANDIDATES)[: generator.integers(1, 12)] for _ in range(50)))


def relevance(found: Ranking, i: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    row = np.zeros(CANDIDATES)
    row[found.ranks[found.offsets[i] : found.offsets[i + 1]]] = 1
    return row


@pytest.mark.parametrize("k", [1, 2, 7, 10, 30, 1_000])
def test_ndcg_is_that_of_scikit_learn(k: int) -> None:
    found = random_ranking(0)
    descending = -np.arange(CANDIDATES)[None]
    expected = [ndcg_score(relevance(found, i)[None], descending, k=k) for i in range(len(found))]
    np.testing.assert_allclose(ndcg_at_k(found, k), expected)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_precision_recall_and_reciprocal_rank_by_definition(k: int) -> None:
    found = random_ranking(1)
    rows = [relevance(found, i) for i in range(len(found))]
    np.testing.assert_allclose(precision_at_k(found, k), [row[:k].sum() / k for row in rows])
    np.testing.assert_allclose(recall_at_k(found, k), [row[:k].any() for row in rows])
    np.testing.assert_allclose(reciprocal_rank(found), [1 / (1 + row.argmax()) for row in rows])
    assert cmc(found, [k, 30]).tolist() == [np.mean([row[:k].any() for row in rows]), 1.0]


def test_values_worked_by_hand() -> None:
    found = ranking([0, 3, 4], [1], [])
    np.testing.assert_allclose(reciprocal_rank(found), [1, 1 / 2, np.nan])
    np.testing.assert_allclose(precision_at_k(found, 4), [2 / 4, 1 / 4, np.nan])
    np.testing.assert_allclose(ndcg_at_k(found, 2), [1 / (1 + 1 / np.log2(3)), 1 / np.log2(3), np.nan])
    # revisitop's compute_ap: ((1 + 1) + (1/3 + 2/4) + (2/4 + 3/5)) / 2 / 3 and (0/1 + 1/2) / 2
    expected = [(2 + 1 / 3 + 2 / 4 + 2 / 4 + 3 / 5) / 6, 0.25, np.nan]
    np.testing.assert_allclose(trapezoid_average_precision(found), expected)


def test_metrics_are_found_by_name_at_any_k() -> None:
    found = random_ranking(2)
    for name, values in (
        ("ndcg@7", ndcg_at_k(found, 7)),
        ("mrr", reciprocal_rank(found)),
        ("recall@20", recall_at_k(found, 20)),
        ("precision@3", precision_at_k(found, 3)),
    ):
        assert metric(name)(found).tolist() == values.tolist()
    names = ["ndcg@7", "mrr", "recall@20", "map", "map@r", "r-precision", "precision@3"]
    shown = ["nDCG@7", "MRR", "Recall@20", "mAP", "mAP@R", "R-precision", "Precision@3"]
    assert [display_name(name) for name in names] == shown


@pytest.mark.parametrize("name", ["recall@0", "recall@", "recall", "ndcg@-1", "map@5", "Recall@1", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"no metric .*: choose one of recall@K, .*ndcg@K"):
        metric(name)


def test_a_match_curve_needs_a_match() -> None:
    with pytest.raises(DataError, match="no query has a relevant"):
        cmc(ranking([], []), [1])
