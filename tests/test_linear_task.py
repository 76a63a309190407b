"""Few-shot tasks: what the seed draws, what stays the same, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hetero.data.imageset import ImageSet
from hetero.linear.task import TaskConfig, cut, few_shot, open_task
from hetero_devices.errors import DataError


def images(classes: int = 4, each: int = 12) -> ImageSet:
    count = classes * each
    labels = np.repeat(np.arange(classes, dtype=np.int64), each)
    names = tuple(f"class {i}" for i in range(classes))
    pixels = np.zeros((count, 8, 8, 3), np.uint8)
    return ImageSet(pixels, labels, np.arange(count, dtype=np.int64), np.zeros(count, np.int64), names)


def test_the_seed_draws_the_shots_and_nothing_else() -> None:
    pool, test = cut(images(), 0.25)
    assert test.counts().tolist() == [3] * 4
    one, other = (few_shot(pool, test, 2, 3, seed) for seed in (0, 1))
    assert np.array_equal(one.validation.ids, other.validation.ids)
    assert not np.array_equal(one.train.ids, other.train.ids)
    assert one.train.counts().tolist() == [2] * 4
    sets = [set(part.ids.tolist()) for part in (one.train, one.validation, one.test)]
    assert sum(map(len, sets)) == len(set.union(*sets)), "no image stands twice"


def test_fewer_shots_are_a_part_of_more() -> None:
    pool, test = cut(images(), 0.25)
    few, more, every = (few_shot(pool, test, shots, 3, 7) for shots in (1, 4, "all"))
    assert set(few.train.ids) < set(more.train.ids) < set(every.train.ids)
    assert every.train.counts().tolist() == [6] * 4


def test_too_many_shots_name_the_class() -> None:
    with pytest.raises(
        DataError, match="'class 0' has 6 training images besides 3 for validation, and 7 shots"
    ):
        few_shot(*cut(images(), 0.25), 7, 3, 0)


def test_classes_the_network_knows_are_dropped(arrays: Path) -> None:
    names = [f"{i:02}" for i in range(12)]
    task = open_task(TaskConfig(source=str(arrays), shots=1), 16, known=names[:4], seed=0)
    assert set(task.train.class_names) == set(names[4:])
    kept = open_task(
        TaskConfig(source=str(arrays), shots=1, known="keep", classes=5), 16, known=names, seed=0
    )
    assert kept.classes == 5
    with pytest.raises(DataError, match="0 classes are new to the network"):
        open_task(TaskConfig(source=str(arrays)), 16, known=names, seed=0)


def test_an_open_set_offers_its_test_classes(tmp_path: Path) -> None:
    for place in ("train/old", "test/new", "test/newer"):
        (tmp_path / place).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / place / f"{i}.png")
    task = open_task(TaskConfig(source=str(tmp_path), shots=1), 8, known=(), seed=0)
    for part in (task.train, task.validation, task.test):
        assert part.class_names == ("new", "newer")


def test_missing_data_is_one_line() -> None:
    with pytest.raises(DataError, match="no data at nowhere"):
        open_task(TaskConfig(source="nowhere"), 16, known=(), seed=0)
