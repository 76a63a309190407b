"""Metrics against hand-worked values, a naive oracle, scikit-learn, and the published defects of peers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import average_precision_score

from hetero.retrieval import MAP, MAP_AT_R, R_PRECISION, evaluate, rank, recall_at_k, summarise
from hetero.retrieval.ranking import Ranking
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, Space


def embed(raw: npt.ArrayLike, labels: npt.ArrayLike, first_id: int = 0) -> Embeddings:
    vectors = np.asarray(raw, np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    ids = np.arange(first_id, first_id + len(vectors), dtype=np.int64)
    return Embeddings(vectors, ids, np.asarray(labels, np.int64), Space("a" * 16, vectors.shape[1]))


def clustered(seed: int, count: int, classes: int, first_id: int = 0) -> Embeddings:
    centres = np.random.default_rng(99).standard_normal((classes, 24))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    return embed(centres[labels] + generator.standard_normal((count, 24)), labels, first_id)


def ranking(*queries: Iterable[int]) -> Ranking:
    ranks = [list(query) for query in queries]
    sizes = [len(r) for r in ranks]
    ids = np.arange(len(ranks))
    return Ranking(
        ids,
        ids,
        np.full(len(ranks), 20),
        np.concatenate([[0], np.cumsum(sizes)]),
        np.array([r for query in ranks for r in query], np.int64),
    )


def test_values_worked_by_hand() -> None:
    evaluation = summarise(ranking([0, 3, 4], [1], [6, 7]), ks=(1, 5))
    assert evaluation.values["recall@1"].tolist() == [1, 0, 0]
    assert evaluation.values["recall@5"].tolist() == [1, 1, 0]
    np.testing.assert_allclose(evaluation.values[MAP], [(1 + 2 / 4 + 3 / 5) / 3, 1 / 2, (1 / 7 + 2 / 8) / 2])
    np.testing.assert_allclose(evaluation.values[MAP_AT_R], [1 / 3, 0, 0])
    np.testing.assert_allclose(evaluation.values[R_PRECISION], [1 / 3, 0, 0])


def test_map_at_r_rewards_early_hits_where_r_precision_does_not() -> None:
    """R = 10, found: the first only; first and tenth; first and second; all (Musgrave et al. 2020, §3.2)."""
    scores = summarise(
        ranking([0, *range(10, 19)], [0, 9, *range(10, 18)], [0, 1, *range(10, 18)], range(10))
    )
    np.testing.assert_allclose(scores.values[R_PRECISION], [0.1, 0.2, 0.2, 1.0])
    np.testing.assert_allclose(scores.values[MAP_AT_R], [0.1, 0.12, 0.2, 1.0])
    assert scores.values["recall@1"].tolist() == [1, 1, 1, 1]


def test_agreement_with_scikit_learn_and_a_naive_oracle() -> None:
    query, gallery = clustered(0, 40, 7, first_id=1_000), clustered(1, 211, 7)
    evaluation = evaluate(query, gallery)
    similarity = query.vectors.astype(np.float64) @ gallery.vectors.T.astype(np.float64)
    for i, scores in enumerate(similarity):
        relevant = (gallery.labels == query.labels[i])[np.argsort(-scores, kind="stable")]
        found = relevant[: relevant.sum()]
        precision = np.cumsum(found) / np.arange(1, len(found) + 1)
        assert evaluation.values[MAP][i] == pytest.approx(
            average_precision_score(gallery.labels == query.labels[i], scores)
        )
        assert evaluation.values[MAP_AT_R][i] == pytest.approx((precision * found).sum() / len(found))
        assert evaluation.values[R_PRECISION][i] == pytest.approx(found.mean())
        for k in (1, 5, 10):
            assert evaluation.values[f"recall@{k}"][i] == relevant[:k].any()


def test_queries_without_a_relevant_image_are_left_out_and_counted() -> None:
    gallery = embed(np.eye(4), [0, 1, 2, 3])
    query = embed(np.eye(4)[[0, 1, 2]], [0, 77, 2], first_id=100)
    evaluation = evaluate(query, gallery)
    assert evaluation.skipped == 1
    assert evaluation.query_ids.tolist() == [100, 102]
    assert evaluation.means["recall@1"] == 1
    assert np.isnan(recall_at_k(rank(query, gallery), 1)).tolist() == [False, True, False]


def test_no_answerable_query_is_an_error() -> None:
    gallery = embed(np.eye(4), [0, 1, 2, 3])
    with pytest.raises(DataError, match="none of the 4 queries has a gallery image of its class"):
        evaluate(embed(np.eye(4), [5, 6, 7, 8], first_id=10), gallery)
    with pytest.raises(DataError, match="none of the 4"):
        evaluate(gallery, gallery)  # each image is the only one of its class, and may not find itself


def test_random_embeddings_score_chance_when_query_and_gallery_differ() -> None:
    """Published defect: `cmc()` of apple/ml-fct and YantaoShen/openBCT returns 1.0 here: it looks along the
    wrong axis of the matches. One relevant image in 100: chance is 0.01."""
    generator = np.random.default_rng(0)
    gallery = embed(generator.standard_normal((100, 32)), np.arange(100))
    query = embed(generator.standard_normal((2_000, 32)), np.arange(2_000) % 100, first_id=1_000)
    means = evaluate(query, gallery).means
    assert 0.004 < means["recall@1"] < 0.02
    assert 0.03 < means["recall@5"] < 0.07
    assert means[MAP] == pytest.approx((1 / np.arange(1, 101)).mean(), rel=0.2)


def test_random_embeddings_score_chance_on_one_set() -> None:
    generator = np.random.default_rng(1)
    both = embed(generator.standard_normal((1_000, 32)), np.arange(1_000) % 100)
    assert 0.002 < evaluate(both, both).means["recall@1"] < 0.02


def test_a_perfect_student_scores_exactly_the_paragon() -> None:
    query, gallery = clustered(0, 60, 9, first_id=1_000), clustered(1, 300, 9)
    student = embed(query.vectors, query.labels, first_id=1_000)
    paragon, asymmetric = evaluate(query, gallery), evaluate(student, gallery)
    assert 0.1 < paragon.means[MAP] < 0.99
    for name, values in paragon.values.items():
        assert asymmetric.values[name].tolist() == values.tolist()


def test_gallery_order_does_not_matter() -> None:
    query, gallery = clustered(0, 60, 9, first_id=1_000), clustered(1, 300, 9)
    moved = gallery.select(np.random.default_rng(0).permutation(len(gallery)))
    for name, values in evaluate(query, gallery).values.items():
        assert evaluate(query, moved).values[name].tolist() == values.tolist()


def test_collapsed_embeddings_score_by_gallery_order_not_perfectly() -> None:
    """A model that maps all to one point must not profit from ties, as it does when ties count as found."""
    query = embed(np.ones((50, 8)), np.arange(50), first_id=1_000)
    gallery = embed(np.ones((50, 8)), np.arange(50))
    means = evaluate(query, gallery).means
    assert means["recall@1"] == 1 / 50
    assert means[MAP] == pytest.approx((1 / np.arange(1, 51)).mean())


def test_an_evaluation_answers_for_any_metric_and_names_them_otherwise() -> None:
    evaluation = evaluate(clustered(0, 10, 2, 100), clustered(1, 20, 2))
    assert evaluation.per_query(MAP).mean == evaluation.means[MAP]
    assert evaluation.per_query("recall@2").values.tolist() == recall_at_k(evaluation.ranking, 2).tolist()
    with pytest.raises(DataError, match=r"no metric 'recall': choose one of recall@K, .*map, map@r"):
        evaluation.per_query("recall")
