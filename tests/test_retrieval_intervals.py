"""Intervals keep their word on data whose truth is known; tests of significance match exact values."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from hetero.retrieval import PerQuery, bootstrap, bootstrap_columns, intervals, mcnemar, paired_difference
from hetero_devices.errors import DataError


def per_query(raw: npt.ArrayLike, ids: npt.ArrayLike | None = None, metric: str = "recall@1") -> PerQuery:
    values = np.asarray(raw, np.float64)
    chosen = np.arange(len(values)) if ids is None else np.asarray(ids, np.int64)
    return PerQuery(metric, chosen, chosen, values)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        estimate = bootstrap((generator.random(150) < 0.7).astype(float), resamples=400, seed=seed)
        covered += estimate.low <= 0.7 <= estimate.high
    assert 0.92 <= covered / 400 <= 0.98


def test_resampling_classes_covers_where_resampling_queries_does_not() -> None:
    """30 classes of 20 queries that succeed or fail together: only the cluster bootstrap is honest."""
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(30), 20)
    covered = {"queries": 0, "classes": 0}
    for seed in range(200):
        values = (generator.random(30) < 0.6).astype(float)[clusters]
        for name, group in (("queries", None), ("classes", clusters)):
            estimate = bootstrap(values, clusters=group, resamples=200, seed=seed)
            covered[name] += estimate.low <= 0.6 <= estimate.high
    assert covered["queries"] / 200 < 0.5
    assert covered["classes"] / 200 > 0.88


def test_cluster_bootstrap_weighs_classes_by_their_size() -> None:
    values, clusters = np.array([1.0, 1, 1, 0]), np.array([5, 5, 5, 9])
    estimate = bootstrap(values, clusters=clusters)
    assert estimate.value == 0.75
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_interval_agrees_with_the_normal_one_where_that_is_right() -> None:
    values = np.random.default_rng(2).normal(3, 2, 4_000)
    estimate = bootstrap(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_same_seed_same_interval_whatever_the_block_and_the_company(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(3).random((97, 3))
    together = bootstrap_columns(columns, resamples=301)
    monkeypatch.setattr(intervals, "_BLOCK_DRAWS", 97 * 7)
    for column, estimate in zip(columns.T, together, strict=True):
        alone = bootstrap(column, resamples=301)
        assert (alone.low, alone.high) == pytest.approx((estimate.low, estimate.high), abs=1e-12)
    assert bootstrap(columns[:, 0], seed=1) != bootstrap(columns[:, 0], seed=2)


def test_mcnemar_is_the_exact_binomial() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(8, 2) == mcnemar(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    exact = 2 * sum(math.comb(1_000, i) for i in range(451)) / 2**1_000
    assert mcnemar(450, 550) == pytest.approx(exact, rel=1e-9)
    assert mcnemar(0, 5_000) == 0  # below the smallest float, not an overflow


def test_paired_difference_of_binary_scores() -> None:
    a, b = per_query([1, 1, 1, 0, 1, 0, 1, 1]), per_query([1, 0, 0, 1, 0, 0, 1, 0])
    comparison = paired_difference(a, b)
    assert comparison.difference.value == pytest.approx(3 / 8)
    assert (comparison.wins, comparison.losses) == (4, 1)
    assert comparison.test == "McNemar exact"
    assert comparison.p_value == pytest.approx(mcnemar(4, 1))


def test_pairing_finds_a_difference_that_unpaired_intervals_hide() -> None:
    generator = np.random.default_rng(4)
    hard = generator.random(400)
    a, b = (
        per_query(hard + 0.01 + 0.01 * generator.standard_normal(400), metric="map"),
        per_query(hard, metric="map"),
    )
    comparison = paired_difference(a, b)
    assert bootstrap(a.values).low < bootstrap(b.values).high
    assert comparison.difference.low > 0
    assert comparison.test == "paired bootstrap"
    assert comparison.p_value == pytest.approx(2 / 2_001)


def test_no_difference_is_not_significant() -> None:
    generator = np.random.default_rng(5)
    significant = 0
    for seed in range(100):
        a, b = per_query(generator.random(80), metric="map"), per_query(generator.random(80), metric="map")
        significant += paired_difference(a, b, resamples=400, seed=seed).p_value < 0.05
    assert significant <= 12
    same = per_query([0.5, 0.25])
    assert paired_difference(same, same).p_value == 1


def test_only_the_same_queries_can_be_paired() -> None:
    a = per_query([1, 0, 1])
    with pytest.raises(DataError, match="same query ids"):
        paired_difference(a, per_query([1, 0, 1], ids=[0, 2, 1]))
    with pytest.raises(DataError, match="same query ids"):
        paired_difference(a, per_query([1, 0]))
    with pytest.raises(DataError, match=r"recall@1 with map"):
        paired_difference(a, per_query([1, 0, 1], metric="map"))
    with pytest.raises(DataError, match="2 cluster labels for 3 queries"):
        paired_difference(a, a, clusters=np.array([0, 1]))
    with pytest.raises(DataError, match="no queries"):
        bootstrap(np.empty(0))
    with pytest.raises(DataError, match="resamples"):
        bootstrap(np.ones(3), resamples=0)
