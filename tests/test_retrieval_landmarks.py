"""Revisited Oxford and Paris: our ranks without junk against the authors' procedure, written out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from hetero.retrieval import Judgements, Landmarks, evaluate, evaluate_landmarks, rank
from hetero.retrieval import ranking as ranking_module
from hetero.retrieval.landmarks import Difficulty
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, Space

QUERIES, GALLERY, DIM = 12, 150, 16

Rows = npt.NDArray[np.int64]


def embed(seed: int, count: int, first_id: int) -> Embeddings:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.arange(first_id, first_id + count)
    return Embeddings(vectors, ids, np.zeros(count, np.int64), Space("a" * 16, DIM))


def landmarks() -> Landmarks:
    generator = np.random.default_rng(7)
    parts = [np.split(generator.permutation(GALLERY)[:30], [6, 14]) for _ in range(QUERIES)]
    return Landmarks(*(list(column) for column in zip(*parts, strict=True)))


def revisited(scores: npt.NDArray[np.float32], right: Rows, junk: Rows, k: int) -> tuple[float, float]:
    """AP and P@k of one query as revisitop's `compute_map` finds them, from its description."""
    order = [row for row in np.argsort(-scores, kind="stable") if row not in junk]
    positions = np.flatnonzero(np.isin(order, right))
    area = sum((j / p if p else 1.0) + (j + 1) / (p + 1) for j, p in enumerate(positions.tolist())) / (
        2 * len(right)
    )
    depth = min(positions.max() + 1, k)
    return area, (positions + 1 <= depth).sum() / depth


@pytest.mark.parametrize("streams", [False, True], ids=["whole rows", "streamed"])
def test_every_difficulty_by_the_authors_procedure(streams: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking_module, "_streams", lambda *sizes: streams)
    query, gallery, truth = embed(0, QUERIES, 1_000), embed(1, GALLERY, 0), landmarks()
    found = evaluate_landmarks(query, gallery, truth, block_bytes=4 * 40 * QUERIES)
    similarity = query.vectors @ gallery.vectors.T
    for i, scores in enumerate(similarity):
        easy, hard, junk = truth.easy[i], truth.hard[i], truth.junk[i]
        cases: dict[Difficulty, tuple[Rows, Rows]] = {
            "easy": (easy, np.union1d(hard, junk)),
            "medium": (np.union1d(easy, hard), junk),
            "hard": (hard, np.union1d(easy, junk)),
        }
        for difficulty, (right, ignored) in cases.items():
            area, precision = revisited(scores, right, ignored, 10)
            assert found[difficulty].ap[i] == pytest.approx(area)
            assert found[difficulty].precision[10][i] == pytest.approx(precision)
    assert found["easy"].mean_ap == pytest.approx(found["easy"].ap.mean())


def test_queries_without_a_positive_are_left_out_of_the_mean() -> None:
    query, gallery, truth = embed(0, QUERIES, 1_000), embed(1, GALLERY, 0), landmarks()
    some = Landmarks([np.empty(0, np.int64), *truth.easy[1:]], truth.hard, truth.junk)
    found = evaluate_landmarks(query, gallery, some)
    assert np.isnan(found["easy"].ap[0])
    assert found["easy"].mean_ap == pytest.approx(found["easy"].ap[1:].mean())
    assert np.isnan(found["easy"].precision[1][0])
    nothing = [np.empty(0, np.int64)] * QUERIES
    with pytest.raises(DataError, match="no query has a relevant image at difficulty hard"):
        evaluate_landmarks(query, gallery, Landmarks(truth.easy, nothing, truth.junk))


def test_judgements_that_repeat_labels_change_nothing() -> None:
    query, gallery = embed(0, QUERIES, 1_000), embed(1, GALLERY, 0)
    labels = np.random.default_rng(3).integers(0, 5, GALLERY)
    gallery = Embeddings(gallery.vectors, gallery.ids, labels, gallery.space)
    query = Embeddings(query.vectors, query.ids, np.arange(QUERIES) % 5, query.space)
    judged = Judgements(
        [np.flatnonzero(labels == label) for label in query.labels], [np.empty(0, np.int64)] * QUERIES
    )
    assert rank(query, gallery, judgements=judged).ranks.tolist() == rank(query, gallery).ranks.tolist()
    by_label, by_judgement = evaluate(query, gallery), evaluate(query, gallery, judgements=judged)
    assert by_label.means == by_judgement.means


def test_junk_leaves_the_candidates_and_the_query_never_finds_itself() -> None:
    gallery = embed(1, 20, 0)
    every = np.arange(20)
    junk = [np.array([1, 2])] * 20
    ranking = rank(gallery, gallery, judgements=Judgements([every] * 20, junk))
    assert ranking.candidates.tolist() == [17, 18, 18, *[17] * 17]
    assert ranking.relevant.tolist() == ranking.candidates.tolist()


def test_judgements_must_fit() -> None:
    query, gallery = embed(0, 2, 1_000), embed(1, 5, 0)
    none = np.empty(0, np.int64)
    with pytest.raises(DataError, match="1 judgements for 2 queries"):
        rank(query, gallery, judgements=Judgements([none], [none]))
    for outside in (5, -1):
        with pytest.raises(DataError, match="outside the gallery of 5"):
            rank(query, gallery, judgements=Judgements([none, np.array([outside])], [none, none]))
