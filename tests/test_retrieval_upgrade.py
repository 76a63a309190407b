"""What an update does: flips, shift, angles, clusters, several models and several seeds."""

from __future__ import annotations

import importlib
import math

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from hetero.retrieval import (
    PerQuery,
    across_seeds,
    agreement,
    angles,
    average_accuracy,
    average_compatibility,
    difference_across_seeds,
    flips,
    mcnemar,
    negative_flip_bits,
    negative_flips,
    old_clusters_on_new,
    p_1,
    p_comp,
    p_up,
    score_shift,
    t_interval,
)
from hetero_devices.errors import DataError, SpaceMismatch
from hetero_devices.space import Embeddings, Space

stats = importlib.import_module("scipy.stats")  # comes with scikit-learn; publishes no types


def per_query(raw: npt.ArrayLike, metric: str = "recall@1") -> PerQuery:
    values = np.asarray(raw, np.float64)
    ids = np.arange(len(values))
    return PerQuery(metric, ids, ids // 2, values)


def embed(raw: npt.ArrayLike, space: str = "a" * 16) -> Embeddings:
    vectors = np.asarray(raw, np.float64)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    ids = np.arange(len(vectors))
    return Embeddings(vectors, ids, ids, Space(space, vectors.shape[1]))


def test_flips_worked_by_hand() -> None:
    """10 queries; old right on 6, new right on 7; 2 negative and 3 positive flips."""
    old, new = per_query([1, 1, 1, 1, 1, 1, 0, 0, 0, 0]), per_query([0, 0, 1, 1, 1, 1, 1, 1, 1, 0])
    found = flips(old, new)
    assert (found.nfr.value, found.pfr.value) == (0.2, 0.3)
    assert found.relative_nfr == pytest.approx(0.2 / (0.6 * 0.3))
    assert found.nfi == pytest.approx(2 / 3)
    assert found.p_value == mcnemar(3, 2)
    assert negative_flips(old, new).tolist() == [0, 1]
    assert negative_flip_bits(old, new).values.tolist() == [1, 1] + 8 * [0]
    assert found.pfr.value - found.nfr.value == pytest.approx(new.mean - old.mean)
    assert 0 <= found.nfr.low < 0.2 < found.nfr.high < 1


def test_flips_of_independent_errors_are_relatively_one() -> None:
    generator = np.random.default_rng(0)
    old, new = (per_query(generator.random(200_000) < share) for share in (0.7, 0.8))
    found = flips(old, new, resamples=10)
    assert found.relative_nfr == pytest.approx(1, abs=0.02)
    assert flips(old, old, resamples=10).relative_nfr == 0


def test_flips_need_bits_and_the_same_queries() -> None:
    with pytest.raises(DataError, match="map is no success bit"):
        flips(per_query([0.5, 1], "map"), per_query([1, 1], "map"))
    with pytest.raises(DataError, match="same query ids"):
        flips(per_query([1, 0]), per_query([1, 0, 1]))
    perfect = flips(per_query([0, 1]), per_query([1, 1]))
    assert math.isnan(perfect.nfi)
    assert math.isnan(perfect.relative_nfr)


def test_score_shift_is_that_of_scipy() -> None:
    generator = np.random.default_rng(1)
    for size, other, move in ((100, 130, 0.0), (400, 300, 0.1), (1_000, 800, 0.3), (50, 50, 1.0)):
        a, b = generator.standard_normal(size), generator.standard_normal(other) + move
        expected = stats.ks_2samp(a, b, method="exact")
        shift = score_shift(a, b)
        assert shift.statistic == pytest.approx(expected.statistic)
        assert shift.p_value == pytest.approx(expected.pvalue, rel=0.15, abs=1e-3)
    tied = np.array([0.0, 0, 1, 1, 1], np.float32), np.array([0.0, 1, 1], np.float32)
    assert score_shift(*tied).statistic == pytest.approx(stats.ks_2samp(*tied).statistic)
    assert score_shift(a, a).p_value == 1
    assert score_shift(a, a + 100).statistic == 1
    with pytest.raises(DataError, match="0 and 50 scores"):
        score_shift(np.empty(0), b)


def test_angles_are_right_also_where_the_arc_cosine_is_not() -> None:
    degrees = np.array([0.0, 1e-4, 0.01, 30, 90, 179.99])
    turned = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
    still = np.tile([1.0, 0.0], (len(degrees), 1))
    np.testing.assert_allclose(angles(embed(turned), embed(still)), degrees, rtol=2e-3, atol=1e-9)
    with pytest.raises(SpaceMismatch):
        angles(embed(turned), embed(still, "b" * 16))
    with pytest.raises(DataError, match="different images"):
        angles(embed(turned), embed(still).select(np.arange(2)))


@pytest.mark.parametrize("seed", range(6))
def test_agreement_is_that_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a = generator.integers(0, 2 + 3 * seed, 300)
    b = np.where(generator.random(300) < 0.4, generator.integers(0, 7, 300), -5 * a)
    found = agreement(a, b)
    assert found.ari == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b"),
    [([0, 0, 1, 1], [7, 7, 3, 3]), ([0, 0, 0], [1, 1, 1]), ([0, 1, 2], [5, 6, 7]), ([0, 0, 0], [0, 1, 2])],
)
def test_agreement_at_the_edges(a: list[int], b: list[int]) -> None:
    found = agreement(np.array(a), np.array(b))
    assert found.ari == pytest.approx(adjusted_rand_score(a, b))
    assert found.nmi == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-12)


def test_old_clusters_hold_for_the_same_space_and_not_for_another() -> None:
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(10, 15), 30)
    latent = generator.standard_normal((5, 24))[clusters - 10] + 0.3 * generator.standard_normal((150, 24))
    turn = np.linalg.qr(generator.standard_normal((24, 24)))[0]
    old, student = embed(latent), embed(latent + 0.1 * generator.standard_normal(latent.shape))
    assert old_clusters_on_new(old, clusters, old).ari == 1
    assert old_clusters_on_new(old, clusters, student).ari > 0.9
    assert old_clusters_on_new(old, clusters, embed(latent @ turn)).ari < 0.7
    with pytest.raises(DataError, match="same images"):
        old_clusters_on_new(old, clusters, student.select(np.arange(10)))
    with pytest.raises(DataError, match="10 cluster assignments for 150"):
        old_clusters_on_new(old, clusters[:10], student)
    with pytest.raises(DataError, match="same items"):
        agreement(clusters, clusters[:3])


def test_compatibility_of_several_releases() -> None:
    """Three releases: 2 is compatible with 1, 3 with 2 but not with 1. The upper triangle is not read."""
    scores = np.array([[0.50, 9, 9], [0.55, 0.60, 9], [0.45, 0.65, 0.70]])
    assert average_compatibility(scores) == pytest.approx(2 / 3)
    assert average_accuracy(scores) == pytest.approx((0.5 + 0.55 + 0.6 + 0.45 + 0.65 + 0.7) / 6)
    with pytest.raises(DataError, match="at least two models"):
        average_compatibility(np.ones((1, 1)))
    with pytest.raises(DataError, match=r"\[2, 3\]"):
        average_accuracy(np.ones((2, 3)))


OLD, PARAGON = (75.45, 49.15, 10.03), (81.15, 63.85, 16.48)
PUBLISHED = {
    "BCT": ((80.58, 56.34, 14.61), (77.37, 49.66, 11.30), (48.02, 54.71, 51.13)),
    "Hot-refresh": ((79.57, 58.15, 13.88), (76.53, 50.05, 10.35), (47.78, 52.50, 50.03)),
    "UniBCT": ((80.93, 57.24, 16.06), (78.30, 50.97, 13.25), (48.90, 59.19, 53.52)),
    "AdvBCT": ((82.78, 62.13, 15.71), (78.55, 52.31, 11.49), (49.55, 58.09, 53.45)),
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_p_scores_reproduce_the_table_of_advbct(method: str) -> None:
    """Extended data, RParis / ROxford / GLDv2: mAP of new on new and of new on old; P_up, P_comp, P_1."""
    new_new, new_old, (up, comp, one) = PUBLISHED[method]
    both = p_1(new_new=new_new, new_old=new_old, old_old=OLD, paragon=PARAGON)
    assert 100 * p_up(new_new=new_new, paragon=PARAGON) == pytest.approx(up, abs=0.006)
    assert 100 * p_comp(new_old=new_old, old_old=OLD, paragon=PARAGON) == pytest.approx(comp, abs=0.006)
    assert 100 * both == pytest.approx(one, abs=0.006)


def test_p_scores_refuse_what_has_no_meaning() -> None:
    with pytest.raises(DataError, match="scores 0"):
        p_up(new_new=[0.1], paragon=[0.0])
    with pytest.raises(DataError, match="does not beat"):
        p_comp(new_old=[0.1], old_old=[0.3], paragon=[0.2])
    with pytest.raises(DataError, match="no data sets"):
        p_up(new_new=[], paragon=[])


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 10, 31])
def test_seed_interval_is_students(seeds: int) -> None:
    means = np.random.default_rng(seeds).random(seeds)
    for confidence in (0.9, 0.95):
        estimate = t_interval(means, confidence)
        low, high = stats.t.interval(confidence, seeds - 1, means.mean(), stats.sem(means))
        assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-6)


def test_a_summary_of_seeds() -> None:
    runs = [per_query([1, 0, 1, 1]), per_query([1, 0, 0, 1]), per_query([1, 1, 1, 1])]
    summary = across_seeds(runs)
    assert summary.means == (0.75, 0.5, 1.0)
    assert summary.mean == 0.75
    assert summary.sd == pytest.approx(np.std([0.75, 0.5, 1.0], ddof=1))
    assert summary.over_both.low < 0.75 < summary.over_both.high
    alone = across_seeds(runs[:1])
    assert alone.sd == 0
    assert (alone.over_seeds.low, alone.over_seeds.high) == (-math.inf, math.inf)
    with pytest.raises(DataError, match="no seeds"):
        across_seeds([])
    with pytest.raises(DataError, match="same query ids"):
        across_seeds([runs[0], per_query([1, 0])])


def test_seeds_that_share_their_queries_do_not_average_the_queries_away() -> None:
    """Identical runs: ten seeds know no more about the queries than one."""
    run = per_query(np.random.default_rng(0).random(200) < 0.5)
    one, ten = across_seeds([run]).over_both, across_seeds([run] * 10).over_both
    assert (ten.low, ten.high) == (one.low, one.high)


def test_interval_over_seeds_and_queries_covers_the_truth() -> None:
    """Each query and each seed has its own effect; the truth is the mean over all of both."""
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(150):
        queries, seeds = generator.normal(0, 0.3, 60), generator.normal(0, 0.05, 8)
        runs = [per_query(queries + shift + generator.normal(0, 0.1, 60), "map") for shift in seeds]
        found = across_seeds(runs, resamples=300, seed=trial).over_both
        covered += found.low <= 0 <= found.high
    assert 0.88 <= covered / 150 <= 1


def test_a_difference_is_paired_by_seed_and_by_query() -> None:
    generator = np.random.default_rng(2)
    shared = [generator.random(100) for _ in range(3)]
    a = [per_query(x + 0.02 + 0.01 * generator.standard_normal(100), "map") for x in shared]
    b = [per_query(x, "map") for x in shared]
    found = difference_across_seeds(a, b)
    assert found.mean == pytest.approx(0.02, abs=0.003)
    assert found.over_both.low > 0.015
    assert found.over_seeds.low > 0
    with pytest.raises(DataError, match="3 seeds against 2"):
        difference_across_seeds(a, b[:2])
