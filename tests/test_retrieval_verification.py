"""Verification and open-set identification against scikit-learn and naive definitions over all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_curve

from hetero.retrieval import (
    evaluate,
    open_set,
    pair_scores,
    rates_at,
    roc,
    tar_at_far,
    threshold_transfer,
    tpir_at_fpir,
    verification,
)
from hetero.retrieval.operating import allowed
from hetero_devices.errors import DataError, SpaceMismatch
from hetero_devices.space import Embeddings, Space


def clustered(
    seed: int, count: int, first_id: int = 0, noise: float = 1.0, coarse: bool = False
) -> Embeddings:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 12, count)
    vectors = np.random.default_rng(99).standard_normal((12, 16))[labels]
    vectors = vectors + noise * generator.standard_normal((count, 16))
    if coarse:
        vectors = np.sign(vectors)  # products are exact multiples of 1/8: many tie
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    ids = np.arange(first_id, first_id + count)
    return Embeddings(vectors, ids, labels, Space("a" * 16, 16))


def trials(query: Embeddings, gallery: Embeddings) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Scores and genuineness of every pair but an image with itself."""
    scores = query.vectors @ gallery.vectors.T
    other = query.ids[:, None] != gallery.ids
    return scores[other], (query.labels[:, None] == gallery.labels)[other]


@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "tied"])
@pytest.mark.parametrize("far", [0.0, 1e-3, 0.01, 0.1, 0.5, 1.0])
def test_tar_at_far_is_that_of_scikit_learns_roc(far: float, coarse: bool) -> None:
    query, gallery = clustered(0, 60, 1_000, coarse=coarse), clustered(1, 120, coarse=coarse)
    false, true, _ = roc_curve(*trials(query, gallery)[::-1], drop_intermediate=False)
    allowed_points = np.flatnonzero(false <= far)
    point = tar_at_far(pair_scores(query, gallery, max_far=max(far, 1e-4), block_bytes=4 * 120 * 7), far)
    assert point.true_rate == pytest.approx(true[allowed_points].max())
    assert point.false_rate <= far
    assert point.false_rate == pytest.approx(false[allowed_points].max())


def test_roc_is_that_of_scikit_learn_on_one_set() -> None:
    both = clustered(2, 90, coarse=True)
    false, true, _ = roc_curve(*trials(both, both)[::-1], drop_intermediate=False)
    curve = roc(pair_scores(both, both, max_far=1.0))
    assert (np.diff(curve.far) > 0).all()
    assert (np.diff(curve.tar) >= 0).all()
    for far, tar in zip(curve.far, curve.tar, strict=True):
        assert tar == pytest.approx(true[np.isclose(false, far)].max())


def test_only_as_many_impostors_are_kept_as_the_largest_far_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = clustered(0, 60, 1_000), clustered(1, 120)
    scores, genuine = trials(query, gallery)
    few = pair_scores(query, gallery, max_far=0.01)
    impostors = np.sort(scores[~genuine])[::-1]
    assert few.impostor_count == len(impostors)
    assert len(few.impostors) == allowed(0.01, len(impostors)) + 1 < 80
    np.testing.assert_allclose(few.impostors, impostors[: len(few.impostors)], atol=1e-6)
    np.testing.assert_allclose(np.sort(few.genuine), np.sort(scores[genuine]), atol=1e-6)
    with pytest.raises(DataError, match=r"rate 0\.5 is beyond"):
        tar_at_far(few, 0.5)
    monkeypatch.setattr(verification, "MAX_KEPT", 10)
    with pytest.raises(DataError, match="ask for a lower FAR"):
        pair_scores(query, gallery, max_far=0.5)


def test_the_allowed_count_is_exact_where_the_product_is_not() -> None:
    assert allowed(0.29, 100) == 29  # 0.29 * 100 is 28.999999999999996
    assert allowed(0.1, 30) == 3  # 0.1 * 30 is 3.0000000000000004
    assert (allowed(0.0, 7), allowed(1.0, 7), allowed(0.999, 7)) == (0, 7, 6)
    with pytest.raises(DataError, match="between 0 and 1"):
        allowed(1.5, 3)


def test_an_unchanged_threshold_drifts_when_scores_shift() -> None:
    """A noisier model scores genuine pairs lower, an anisotropic one scores impostors higher."""
    old = clustered(0, 80, 1_000, noise=0.5), clustered(1, 150, noise=0.5)
    same = threshold_transfer(old, old, 0.01)
    assert same.far_drift == 1
    assert same.new == same.old
    noisy = clustered(0, 80, 1_000, noise=1.5), clustered(1, 150, noise=1.5)
    assert threshold_transfer(old, noisy, 0.01).new.true_rate < same.old.true_rate

    def lifted(side: Embeddings) -> Embeddings:
        vectors = side.vectors + np.float32(0.4)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embeddings(vectors, side.ids, side.labels, Space("b" * 16, 16))

    drifted = threshold_transfer(old, (lifted(old[0]), lifted(old[1])), 0.01)
    assert drifted.far_drift > 5
    scores, genuine = trials(lifted(old[0]), lifted(old[1]))
    assert drifted.new.false_rate == pytest.approx((scores[~genuine] > drifted.old.threshold).mean())
    assert drifted.new.true_rate == pytest.approx((scores[genuine] > drifted.old.threshold).mean())


def test_verification_needs_both_kinds_of_pairs_in_one_space() -> None:
    gallery = clustered(1, 20)
    one = Embeddings(gallery.vectors, gallery.ids, np.zeros(20, np.int64), gallery.space)
    with pytest.raises(DataError, match="0 impostor"):
        rates_at(one, one, 0.5)
    with pytest.raises(DataError, match="0 negatives"):
        tar_at_far(pair_scores(one, one), 0.1)
    foreign = Embeddings(gallery.vectors, gallery.ids, gallery.labels, Space("b" * 16, 16))
    with pytest.raises(SpaceMismatch):
        pair_scores(foreign, gallery)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("fpir", [0.0, 0.1, 0.3])
def test_tpir_at_fpir_by_definition(fpir: float, rank: int) -> None:
    query, gallery = clustered(0, 90, 1_000), clustered(1, 100)
    gallery = gallery.select(gallery.labels < 8)
    found = open_set(query, gallery, rank=rank)
    point = tpir_at_fpir(found, fpir)
    scores = query.vectors @ gallery.vectors.T
    mated = np.isin(query.labels, gallery.labels)
    assert len(found.mated) == mated.sum()
    assert len(found.unmated) == (~mated).sum() > 10
    best: dict[float, float] = {}
    for threshold in np.append(scores.max(axis=1), -1.0):
        false = (scores[~mated].max(axis=1) > threshold).mean()
        order = np.argsort(-scores, axis=1)[:, :rank]
        right = gallery.labels[order] == query.labels[:, None]
        above = np.take_along_axis(scores, order, axis=1) > threshold
        best[float(false)] = max(best.get(float(false), 0), (right & above).any(axis=1)[mated].mean())
    assert point.true_rate == pytest.approx(max(true for false, true in best.items() if false <= fpir))
    assert point.false_rate <= fpir
    assert found.accepted(point.threshold).mean == point.true_rate


def test_open_set_leaves_the_query_itself_out() -> None:
    both = clustered(3, 40)
    alone = Embeddings(both.vectors, both.ids, np.arange(40), both.space)
    found = open_set(alone, alone)
    assert len(found.mated) == 0
    with pytest.raises(DataError, match="0 positives"):
        tpir_at_fpir(found, 0.1)


def test_a_perfect_student_scores_exactly_the_paragon() -> None:
    query, gallery = clustered(0, 60, 1_000), clustered(1, 120)
    student = Embeddings(query.vectors.copy(), query.ids, query.labels, query.space)
    assert tar_at_far(pair_scores(student, gallery), 1e-3) == tar_at_far(pair_scores(query, gallery), 1e-3)
    few = gallery.select(gallery.labels < 8)
    assert tpir_at_fpir(open_set(student, few), 0.1) == tpir_at_fpir(open_set(query, few), 0.1)
    for name in ("ndcg@10", "mrr", "recall@20", "precision@5"):
        values = [evaluate(side, gallery).per_query(name).values.tolist() for side in (student, query)]
        assert values[0] == values[1]
