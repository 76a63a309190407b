"""Orders, mixed galleries and curves, against cases small enough to work out by hand and brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hetero.retrieval import evaluate, rank
from hetero.upgrades.backfill import orders
from hetero.upgrades.backfill.calibration import calibrate
from hetero.upgrades.backfill.cost import embedding_cost
from hetero.upgrades.backfill.curve import area, backfill_curve, share_needed, summarise_curve
from hetero.upgrades.backfill.mixed import (
    Merge,
    Upgrade,
    evaluate_mixed,
    merge_rankings,
    mixed_gallery,
)
from hetero.upgrades.backfill.plan import load_plan, save_plan
from hetero.upgrades.backfill.planning import Wish, make_plan
from hetero.upgrades.backfill.sample import sample_of
from hetero.upgrades.backfill.tables import plan_lines
from hetero_devices.errors import DataError, SpaceMismatch
from hetero_devices.space import Embeddings, Space

OLD, NEW = Space("0" * 16, 6), Space("1" * 16, 8)


def embeddings(
    space: Space, labels: list[int] | npt.NDArray[np.int64], seed: int, noise: float = 0.6, first_id: int = 0
) -> Embeddings:
    """Noisy class directions, which depend on the space alone."""
    rows = np.asarray(labels, np.int64)
    means = np.random.default_rng(int(space.id, 16) + 77).normal(size=(int(rows.max()) + 1, space.dim))
    vectors = means[rows] + noise * np.random.default_rng(seed).normal(size=(len(rows), space.dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = first_id + np.arange(len(rows))
    return Embeddings(vectors.astype(np.float32), ids.astype(np.int64), rows, space)


def upgrade(compatible: bool = False, gallery: int = 60, queries: int = 25) -> Upgrade:
    labels, asked = np.arange(gallery) % 7, np.arange(queries) % 7
    new = OLD if compatible else NEW
    return Upgrade(
        embeddings(OLD, asked, 1, 1.2, first_id=1000),
        embeddings(new, asked, 2, 0.4, first_id=1000),
        embeddings(OLD, labels, 3, 1.2),
        embeddings(new, labels, 4, 0.4),
    )


def flat(vectors: list[list[float]], labels: list[int]) -> Embeddings:
    array = np.array(vectors, np.float32)
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    ids = np.arange(len(labels), dtype=np.int64)
    return Embeddings(array, ids, np.array(labels, np.int64), Space("2" * 16, array.shape[1]))


def test_farthest_from_its_class_mean_comes_first() -> None:
    gallery = flat([[1, 0], [1, 0.1], [0, 1], [1, 0], [0, 1]], [0, 0, 0, 1, 1])
    # Class 1 is [1, 0] and [0, 1]: both at the same distance of its mean, sqrt(1/2). Row 2 is the outlier.
    assert orders.farthest_from_class_mean_first(gallery).tolist() == [2, 3, 4, 0, 1]


def test_the_row_between_two_classes_is_the_most_uncertain() -> None:
    gallery = flat([[1, 0], [1, 1], [0, 1], [1, 0.2]], [0, 0, 1, 1])
    prototypes = np.array([[2, 0], [0, 5]], np.float32)  # their lengths must not matter
    assert orders.most_uncertain_first(gallery, prototypes).tolist()[:2] == [1, 3]
    entropy = -np.log(0.5)  # both cosines are equal for row 1
    block = np.array([[1.0, 1.0]])
    assert orders._entropy(16 * block)[0] == pytest.approx(entropy)


def test_large_classes_come_first_and_ties_stay_in_order() -> None:
    labels = np.array([5, 2, 5, 9, 2, 5], np.int64)
    assert orders.by_class_size(labels).tolist() == [0, 2, 5, 1, 4, 3]
    assert orders.by_class_size(labels, largest_first=False).tolist() == [3, 1, 4, 0, 2, 5]


def test_traffic_counts_hits_and_orders_by_them() -> None:
    counts = orders.hit_counts(np.array([[2, 0], [2, -1], [1, 2]]), 4)
    assert counts.tolist() == [1, 1, 3, 0]
    assert orders.by_traffic(counts).tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize("name", orders.ORDERS)
def test_every_order_is_a_permutation(name: orders.OrderName) -> None:
    gallery = embeddings(OLD, np.arange(101) % 9, 0)
    traffic = np.arange(101, dtype=np.int64)
    rows = orders.order(name, gallery, seed=3, traffic=traffic)
    assert rows.dtype == np.int64
    assert np.array_equal(np.sort(rows), np.arange(101))
    assert np.array_equal(rows, orders.order(name, gallery, seed=3, traffic=traffic))


def test_orders_refuse_what_they_cannot_use() -> None:
    gallery = embeddings(OLD, [0, 1, 0, 1], 0)
    with pytest.raises(DataError, match="needs the embeddings of logged queries"):
        orders.order("traffic", gallery)
    with pytest.raises(DataError, match="one count for each"):
        orders.order("traffic", gallery, traffic=np.zeros(3, np.int64))
    with pytest.raises(DataError, match="prototypes are"):
        orders.most_uncertain_first(gallery, np.zeros((2, 3), np.float32))
    gallery.vectors[1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        orders.order("class-mean", gallery)


def test_one_space_is_one_index_and_two_spaces_are_refused() -> None:
    both, done = upgrade(compatible=True), np.arange(60) % 3 == 0
    gallery = mixed_gallery(both.old_gallery, both.new_gallery, done)
    assert np.array_equal(gallery.vectors[done], both.new_gallery.vectors[done])
    assert np.array_equal(gallery.vectors[~done], both.old_gallery.vectors[~done])
    expected = evaluate(both.new_query, gallery)
    assert evaluate_mixed(both, done).means == expected.means
    apart = upgrade()
    with pytest.raises(SpaceMismatch, match=r"0000.*1111|1111.*0000"):
        mixed_gallery(apart.old_gallery, apart.new_gallery, done)


@pytest.mark.parametrize("merge", ["quantile", "calibrated"])
def test_merged_search_is_what_sorting_everything_gives(merge: Merge) -> None:
    """Against a float64 reference that writes down every pair; own images on both sides are left out."""
    both = upgrade()
    labels = np.arange(60) % 7
    asked = np.arange(20)  # queries that are in the gallery
    both = Upgrade(
        embeddings(OLD, labels, 3, 1.2).select(asked),
        embeddings(NEW, labels, 4, 0.4).select(asked),
        both.old_gallery,
        both.new_gallery,
    )
    done = np.random.default_rng(5).random(60) < 0.4
    found = evaluate_mixed(both, done, merge).per_query("map").values
    assert found == pytest.approx(reference(both, done, merge), abs=1e-12)


def reference(both: Upgrade, done: npt.NDArray[np.bool_], merge: Merge) -> list[float]:
    assert both.old_query is not None
    values = []
    for i in range(len(both.new_query)):
        keys = np.empty(60)
        for query, gallery, part, background in (
            (both.old_query, both.old_gallery, ~done, np.ones(60, bool)),
            (both.new_query, both.new_gallery, done, done),
        ):
            scores = gallery.vectors.astype(np.float64) @ query.vectors[i].astype(np.float64)
            if merge == "calibrated":
                chance = scores[background]
                keys[part] = -((scores[part] - chance.mean()) / chance.std())
                continue
            rows = [r for r in np.flatnonzero(part).tolist() if gallery.ids[r] != query.ids[i]]
            ordered = sorted(rows, key=lambda r: -scores[r])
            for place, row in enumerate(ordered):
                keys[row] = (place + 0.5) / len(ordered)
        rows = [r for r in range(60) if both.new_gallery.ids[r] != both.new_query.ids[i]]
        ranked = sorted(rows, key=lambda r: (keys[r], not done[r]))
        right = [both.new_gallery.labels[r] == both.new_query.labels[i] for r in ranked]
        places = np.flatnonzero(right)
        values.append(float(np.mean((np.arange(len(places)) + 1) / (places + 1))))
    return values


def test_merging_ranks_by_hand() -> None:
    """Old part of 4 at quantiles 1/8, 3/8, 5/8, 7/8; new part of 2 at 1/4, 3/4."""
    query = flat([[1, 0]], [0])
    query = Embeddings(query.vectors, np.array([99]), query.labels, query.space)
    old = flat([[1, 0], [1, 0.1], [1, 0.2], [1, 0.3]], [1, 0, 0, 1])  # relevant: ranks 1 and 2
    new = flat([[1, 0], [1, 1]], [1, 0])  # relevant: rank 1
    merged = merge_rankings(rank(query, old), rank(query, new))
    # order: old0 (1/8), new0 (1/4), old1 (3/8), old2 (5/8), new1 (3/4), old3 (7/8)
    assert merged.ranks.tolist() == [2, 3, 4]
    assert merged.candidates.tolist() == [6]


def test_equal_quantiles_put_the_new_part_first() -> None:
    query = flat([[1, 0]], [0])
    query = Embeddings(query.vectors, np.array([99]), query.labels, query.space)
    part = flat([[1, 0], [1, 1]], [0, 1])
    merged = merge_rankings(rank(query, part), rank(query, part))
    assert merged.ranks.tolist() == [0, 1]  # new's first, then old's
    wrong = flat([[1, 0], [1, 1]], [1, 0])
    assert merge_rankings(rank(query, part), rank(query, wrong)).ranks.tolist() == [1, 2]
    assert merge_rankings(rank(query, wrong), rank(query, part)).ranks.tolist() == [0, 3]


def test_calibration_is_mean_and_deviation_of_all_scores() -> None:
    query, background = embeddings(OLD, [0, 1, 2], 0), embeddings(OLD, np.arange(500) % 5, 1)
    mean, deviation = calibrate(background).of(query)
    scores = query.vectors.astype(np.float64) @ background.vectors.astype(np.float64).T
    assert mean == pytest.approx(scores.mean(axis=1), abs=1e-12)
    assert deviation == pytest.approx(scores.std(axis=1), abs=1e-9)
    with pytest.raises(SpaceMismatch):
        calibrate(background).of(embeddings(NEW, [0], 0))


@pytest.mark.parametrize("compatible", [True, False])
def test_a_curve_begins_with_the_old_gallery_and_ends_with_the_new(compatible: bool) -> None:
    both = upgrade(compatible)
    rows = orders.random_order(60, 0)
    curve = backfill_curve(both, rows, order="random", metric="map", points=5)
    assert curve.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert both.old_query is not None
    first = evaluate(both.new_query if compatible else both.old_query, both.old_gallery)
    assert curve.values[:, 0] == pytest.approx(first.per_query("map").values)
    last = evaluate(both.new_query, both.new_gallery).per_query("map").values
    assert curve.values[:, -1] == pytest.approx(last)
    with pytest.raises(DataError, match="does not name each of 60"):
        backfill_curve(both, rows[1:], order="random")


def test_area_worst_point_and_share_needed_by_hand() -> None:
    shares = np.array([0, 0.25, 0.75, 1.0])
    means = np.array([0.5, 0.3, 0.7, 0.6])
    # 0.25 * 0.4 + 0.5 * 0.5 + 0.25 * 0.65
    assert area(shares, means) == pytest.approx(0.1 + 0.25 + 0.1625)
    assert share_needed(shares, means, 0.6) == 0.75
    assert share_needed(shares, means, 0.5) == 0
    assert share_needed(shares, means, 0.71) is None


def test_the_summary_agrees_with_the_curve() -> None:
    curve = backfill_curve(upgrade(), orders.random_order(60, 0), order="random", points=6)
    found = summarise_curve(curve)
    assert [point.value for point in found.points] == pytest.approx(curve.means.tolist())
    assert found.area.value == pytest.approx(area(curve.shares, curve.means))
    assert found.area.low <= found.area.value <= found.area.high
    assert found.worst.value == pytest.approx(curve.means.min())
    assert found.target == pytest.approx(curve.means[-1])


def test_an_incompatible_upgrade_needs_queries_in_the_old_space() -> None:
    both = upgrade()
    with pytest.raises(DataError, match="give the queries in the old space"):
        Upgrade(None, both.new_query, both.old_gallery, both.new_gallery)
    with pytest.raises(SpaceMismatch):
        Upgrade(both.new_query, both.new_query, both.old_gallery, both.new_gallery)
    with pytest.raises(DataError, match="different images"):
        Upgrade(both.old_query, both.new_query, both.old_gallery, both.new_gallery.select(np.arange(59)))


def test_cost_in_hours_and_money() -> None:
    cost = embedding_cost(720_000, 100.0, workers=4, price_per_hour=1.5)
    assert cost.hours == pytest.approx(0.5)  # 2 hours of work by four
    assert cost.money == pytest.approx(3.0)
    assert embedding_cost(10, 1.0).money is None
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="measure it"):
            embedding_cost(10, rate)


def test_a_plan_takes_the_order_of_the_largest_area_and_comes_back_from_disk(tmp_path: Path) -> None:
    both = upgrade()
    wish = Wish(points=5, images_per_second=10.0, price_per_hour=2.0, seed=1)
    gallery = embeddings(OLD, np.arange(60) % 7, 3, 1.2)
    plan, ids, curves = make_plan(gallery, NEW, wish, both)
    assert {curve.order for curve in curves} == {"random", "class-mean", "uncertainty", "class-size"}
    assert plan.order == max(curves, key=lambda curve: curve.areas.mean).order == plan.curves[0].order
    rows = orders.order(plan.order, gallery, seed=1)  # type: ignore[arg-type]
    assert np.array_equal(ids, gallery.ids[rows])
    save_plan(tmp_path / "plan", plan, ids, curves)
    again, order = load_plan(tmp_path / "plan")
    assert again == plan
    assert np.array_equal(order, ids)
    assert (tmp_path / "plan" / "curve.png").read_bytes().startswith(b"\x89PNG")
    np.save(tmp_path / "plan" / "order.npy", ids[::-1])
    with pytest.raises(DataError, match="not the order"):
        load_plan(tmp_path / "plan")


def test_a_plan_says_where_the_new_model_is_the_worse_one() -> None:
    better = upgrade()
    assert better.old_query is not None
    worse = Upgrade(better.new_query, better.old_query, better.new_gallery, better.old_gallery)
    up, _, _ = make_plan(better.old_gallery, NEW, Wish(points=3), better)
    down, _, _ = make_plan(worse.old_gallery, OLD, Wish(points=3), worse)
    assert not any("no upgrade" in line for line in plan_lines(up))
    assert any("no upgrade" in line for line in plan_lines(down))


def test_a_plan_without_a_sample_takes_the_published_order() -> None:
    gallery = embeddings(OLD, np.arange(30) % 4, 3)
    plan, ids, curves = make_plan(gallery, NEW, Wish())
    assert (plan.order, plan.curves, curves) == ("class-mean", (), ())
    assert np.array_equal(np.sort(ids), gallery.ids)
    with pytest.raises(DataError, match="no order 'rondom'"):
        make_plan(gallery, NEW, Wish(order="rondom"))


def test_a_plan_does_not_replace_one_that_is_being_applied(tmp_path: Path) -> None:
    gallery = embeddings(OLD, np.arange(30) % 4, 3)
    plan, ids, _ = make_plan(gallery, NEW, Wish())
    save_plan(tmp_path / "plan", plan, ids, ())
    (tmp_path / "plan" / "migration").mkdir()
    with pytest.raises(DataError, match="migration under way"):
        save_plan(tmp_path / "plan", plan, ids, ())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="is not a plan"):
        save_plan(tmp_path / "mine", plan, ids, ())
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_the_sample_is_the_part_of_the_gallery_that_both_models_embedded() -> None:
    both = upgrade()
    some = np.array([40, 3, 17])
    sample = sample_of(both.old_gallery, both.new_gallery.select(some), both.new_query, both.old_query)
    assert sample.old_gallery.ids.tolist() == [40, 3, 17]
    assert np.array_equal(sample.old_gallery.vectors, both.old_gallery.vectors[some])
    stranger = embeddings(NEW, [0, 1], 0, first_id=500)
    with pytest.raises(DataError, match=r"lacks \(id 500\)"):
        sample_of(both.old_gallery, stranger, both.new_query, both.old_query)
