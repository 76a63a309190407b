"""Image sets, class-disjoint splits and query/gallery protocols."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetero.data import ImageSet, protocol
from hetero.data.protocols import leave_one_out, one_group, one_per_class
from hetero.data.splits import Splits, by_column, class_disjoint, from_classes
from hetero_devices.errors import DataError


def make_set(counts: list[int], **changes: Any) -> ImageSet:
    """Class c has counts[c] images, each filled with its id; groups count up from 1 in each class."""
    total = sum(counts)
    fields: dict[str, Any] = {
        "images": np.broadcast_to(np.arange(total, dtype=np.uint8)[:, None, None, None], (total, 2, 2, 3)),
        "labels": np.repeat(np.arange(len(counts)), counts).astype(np.int64),
        "ids": np.arange(total, dtype=np.int64),
        "groups": np.array([group for count in counts for group in range(1, count + 1)], dtype=np.int64),
        "class_names": tuple(f"c{label:02d}" for label in range(len(counts))),
    }
    return ImageSet(**(fields | changes))


def check_rows(part: ImageSet, whole: ImageSet) -> None:
    """Every row of `part` still says about its id what `whole` says."""
    np.testing.assert_array_equal(part.images, whole.images[part.ids])
    np.testing.assert_array_equal(part.groups, whole.groups[part.ids])
    names = [part.class_names[label] for label in part.labels]
    assert names == [whole.class_names[label] for label in whole.labels[part.ids]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((6, 2, 2, 3), np.float32)}, "images are float32"),
        ({"images": np.zeros((6, 2, 3, 3), np.uint8)}, r"images are uint8 \[6, 2, 3, 3\]"),
        ({"labels": np.zeros(6, np.int32)}, r"labels are int32 \[6\], expected int64 \[6\]"),
        ({"labels": np.zeros(5, np.int64)}, r"labels are int64 \[5\]"),
        ({"labels": np.full(6, 2)}, "labels span 2 to 2, but there are 2 class names"),
        ({"labels": np.full(6, -1)}, "labels span -1 to -1"),
        ({"ids": np.zeros(6, np.int64)}, "ids repeat"),
        ({"groups": np.zeros(6)}, "groups are float64"),
        ({"is_query": np.zeros(6, np.int64)}, r"is_query are int64 \[6\], expected bool \[6\]"),
    ],
)
def test_columns_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_set([3, 3], **change)


def test_select_keeps_ids_and_labels_unless_asked() -> None:
    whole = make_set([2, 3, 4], is_query=np.arange(9) % 2 == 0)
    part = whole.select(np.array([8, 2, 3]))
    assert part.ids.tolist() == [8, 2, 3]
    assert part.labels.tolist() == [2, 1, 1]
    assert part.is_query is not None
    assert part.is_query.tolist() == [True, True, False]
    renamed = whole.select(np.array([8, 2, 3]), relabel=True)
    assert renamed.labels.tolist() == [1, 0, 0]
    assert renamed.class_names == ("c01", "c02")
    check_rows(renamed, whole)


def test_consecutive_rows_stay_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", make_set([3, 3]).images)
    mapped = make_set([3, 3], images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    view = mapped.classes(["c01"])
    assert np.shares_memory(view.images, mapped.images)
    check_rows(view, mapped)
    assert not np.shares_memory(mapped.select(np.array([0, 2])).images, mapped.images)
    assert len(mapped.select(np.zeros(6, np.bool_))) == 0


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(DataError, match="no class named 'c09' among 2 classes"):
        make_set([1, 1]).classes(["c00", "c09"])


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_class_disjoint_splits_cover_all_and_share_no_class(seed: int | None) -> None:
    whole = make_set([3] * 20)
    splits = class_disjoint(whole, test_share=0.4, validation_share=0.25, seed=seed)
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part.class_names) for part in parts] == [9, 3, 8]
    names = [name for part in parts for name in part.class_names]
    assert sorted(names) == list(whole.class_names)
    for part in parts:
        check_rows(part, whole)
        assert sorted(set(part.labels.tolist())) == list(range(len(part.class_names)))
    if seed is None:
        assert names == list(whole.class_names)


def test_class_disjoint_is_deterministic_and_depends_on_the_seed() -> None:
    whole = make_set([2] * 20)
    first, again, other = (class_disjoint(whole, seed=seed).test.class_names for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_splits_that_cannot_be_made() -> None:
    with pytest.raises(DataError, match=r"1 class\(es\) are too few to hold out a test set"):
        class_disjoint(make_set([5]))
    with pytest.raises(DataError, match=r"1 class\(es\) are too few to hold out a validation set"):
        class_disjoint(make_set([5, 5]))
    with pytest.raises(DataError, match="class 'c01' has no images"):
        class_disjoint(make_set([5, 0, 5]))
    with pytest.raises(DataError, match=r"test share is 1\.5"):
        class_disjoint(make_set([5] * 5), test_share=1.5)


def test_no_validation_when_none_is_asked_for() -> None:
    splits = class_disjoint(make_set([2] * 4), validation_share=0)
    assert len(splits.validation) == 0
    assert splits.validation.class_names == ()
    assert len(splits.train) == 4


def column(*parts: tuple[str, int]) -> np.ndarray[Any, np.dtype[np.str_]]:
    return np.array([name for name, count in parts for _ in range(count)])


def test_a_split_column_is_honoured() -> None:
    whole = make_set([6] * 3)
    splits = by_column(whole, column(*[("train", 3), ("validation", 1), ("test", 2)] * 3), 0.5)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [9, 3, 6]
    for part in (splits.train, splits.validation, splits.test):
        check_rows(part, whole)


def test_closed_set_validation_is_a_share_of_each_training_class() -> None:
    whole = make_set([6, 6, 2])
    parts = [("train", 4), ("test", 2), ("train", 4), ("test", 2), ("train", 1), ("test", 1)]
    splits = by_column(whole, column(*parts), 0.25)
    assert splits.validation.ids.tolist() == [3, 9]  # a class with one training image keeps it
    assert splits.train.class_names == splits.validation.class_names == whole.class_names
    assert not set(splits.validation.ids).intersection(splits.test.ids)


def test_open_set_validation_is_whole_training_classes() -> None:
    whole = make_set([3] * 6)
    splits = by_column(whole, column(("train", 12), ("test", 6)), 0.25)
    assert splits.train.class_names == ("c00", "c01", "c02")
    assert splits.validation.class_names == ("c03",)
    assert splits.test.class_names == ("c04", "c05")


def test_a_split_column_without_test_rows() -> None:
    with pytest.raises(DataError, match="no image has the split 'test'"):
        by_column(make_set([3, 3]), column(("train", 6)), 0.1)


def test_from_classes_takes_validation_from_the_end() -> None:
    splits: Splits = from_classes(make_set([1] * 5), ["c03", "c00", "c01"], ["c04"], 0.34, "group=1")
    assert splits.train.class_names == ("c00", "c03")
    assert splits.validation.class_names == ("c01",)
    assert splits.protocol == "group=1"


def test_leave_one_out_has_all_on_both_sides() -> None:
    whole = make_set([2, 3])
    sides = protocol("leave-one-out", whole)
    assert sides.query.ids.tolist() == sides.gallery.ids.tolist() == whole.ids.tolist()


def test_leave_one_out_names_a_class_of_one_image() -> None:
    with pytest.raises(DataError, match=r"class 'c01' has 1 image\(s\), leave-one-out needs two"):
        leave_one_out(make_set([2, 1, 2]))
    with pytest.raises(DataError, match="the set is empty"):
        leave_one_out(make_set([]))


def test_one_group_is_the_gallery() -> None:
    whole = make_set([3, 4])
    sides = protocol("group=2", whole)
    assert sides.gallery.ids.tolist() == [1, 4]
    assert sides.query.ids.tolist() == [0, 2, 3, 5, 6]
    assert "5 queries, 2 in the gallery" in sides.description
    check_rows(sides.query, whole)


def test_one_group_names_a_class_without_it() -> None:
    with pytest.raises(DataError, match="class 'c01' has no image in group 3"):
        one_group(make_set([3, 2, 3]), 3)


@pytest.mark.parametrize("seed", range(5))
def test_one_per_class_has_one_image_of_each(seed: int) -> None:
    whole = make_set([2, 5, 3])
    sides = one_per_class(whole, seed)
    assert sorted(sides.gallery.labels.tolist()) == [0, 1, 2]
    assert sorted([*sides.gallery.ids, *sides.query.ids]) == whole.ids.tolist()


def test_one_per_class_is_drawn_by_the_seed() -> None:
    draws = {tuple(one_per_class(make_set([9] * 5), seed).gallery.ids.tolist()) for seed in range(4)}
    assert len(draws) == 4
    assert len({tuple(one_per_class(make_set([9] * 5), 1).gallery.ids.tolist()) for _ in range(2)}) == 1


def test_one_per_class_needs_something_to_ask() -> None:
    with pytest.raises(DataError, match="no image is left as a query"):
        one_per_class(make_set([1, 1]))


def test_designated_sides() -> None:
    query = np.array([True, False, True, True])
    whole = make_set([2, 2], is_query=query, is_gallery=np.array([True, True, False, True]))
    sides = protocol("designated", whole)
    assert sides.query.ids.tolist() == [0, 2, 3]
    assert sides.gallery.ids.tolist() == [0, 1, 3]
    with pytest.raises(DataError, match="class 'c01' has queries but no image in the gallery"):
        protocol("designated", replace(whole, is_gallery=np.array([True, True, False, False])))
    with pytest.raises(DataError, match="no image has is_query set"):
        protocol("designated", replace(whole, is_query=np.zeros(4, np.bool_)))
    with pytest.raises(DataError, match="designates no sides"):
        protocol("designated", make_set([2, 2]))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("leave-1-out", "leave-one-out"),
        ("one_per_class", "one-per-class"),
        ("group=a", "group=N"),
        ("designate", "designated"),
    ],
)
def test_an_unknown_protocol_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(DataError, match=f"no protocol {name!r}; did you mean '{nearest}") as caught:
        protocol(name, make_set([2, 2]))
    assert "\n" not in str(caught.value)
