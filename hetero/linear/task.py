"""A few-shot task: classes the network was not trained on, some images of each, the rest for testing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from hetero.config import Config
from hetero.data.cache import decoded
from hetero.data.imageset import ImageSet, Int64s
from hetero.data.load import NAMES, load
from hetero.data.sources import open_source
from hetero.data.splits import by_column
from hetero_devices.errors import DataError

Shots = int | Literal["all"]


class TaskConfig(Config):
    """Which images, which classes, and how many are learnt from."""

    source: str = Field(
        default="glyphs", description="named data set, folder, archive, CSV/parquet manifest or .npz"
    )
    root: str | None = Field(default=None, description="folder of the named data sets; else HETERO_DATA_ROOT")
    base_url: str | None = Field(
        default=None, description="where named data sets are downloaded from; else HETERO_DATA_URL"
    )
    classes: int | None = Field(default=None, ge=2, description="only so many classes, the first by name")
    known: Literal["drop", "keep"] = Field(
        default="drop", description="what is done with classes that the network was trained on"
    )
    shots: Shots = Field(default=5, description="training images a class, or `all`")
    validation: int = Field(default=3, ge=1, description="images a class for choosing hyper-parameters")
    test_share: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="of every class' images, where the data set names no test images",
    )

    @field_validator("shots", mode="before")
    @classmethod
    def _number(cls, shots: object) -> object:
        if shots != "all" and not (isinstance(shots, int) and shots > 0):
            raise ValueError("expected a number of images, or all")
        return shots


@dataclass(frozen=True)
class Task:
    """Three sets of images of the same classes, disjoint; labels index the same `class_names`.

    validation: for choosing hyper-parameters; test: looked at once a figure.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet

    @property
    def classes(self) -> int:
        return len(self.train.class_names)


def open_task(config: TaskConfig, size: int, known: Collection[str], seed: int) -> Task:
    """The task that `config` describes, of size x size pixels.

    known: names of classes the network was trained on. seed: draws the training images, and nothing else, so
    that every seed and every number of shots has the same validation and test images. Raises DataError in
    one line where there are too few classes or images.
    """
    pool, test = _restricted(*_images(config, size), config, known)
    return few_shot(pool, test, config.shots, config.validation, seed)


def few_shot(pool: ImageSet, test: ImageSet, shots: Shots, validation: int, seed: int) -> Task:
    """Draw `validation` images a class from the pool, the same for all seeds, then `shots` by the seed.

    With fewer shots a seed's images are a part of those with more. Raises DataError for too few images.
    """
    if pool.class_names != test.class_names:
        raise DataError("training and test images are of different classes: give one set of classes")
    held = np.concatenate([rows[:validation] for rows in _drawn(pool, 0)])
    rest = pool.select(np.setdiff1d(np.arange(len(pool), dtype=np.int64), held))
    counts = rest.counts()
    wanted = int(counts.max(initial=0)) if shots == "all" else shots
    fewest = int(counts.argmin())
    if counts[fewest] < (1 if shots == "all" else wanted):
        raise DataError(
            f"class {pool.class_names[fewest]!r} has {counts[fewest]} training images besides {validation} "
            f"for validation, and {shots} shots are asked for: ask for fewer, or for shots=all"
        )
    chosen = np.concatenate([rows[:wanted] for rows in _drawn(rest, seed + 1)])
    return Task(rest.select(np.sort(chosen)), pool.select(np.sort(held)), test)


def cut(images: ImageSet, share: float) -> tuple[ImageSet, ImageSet]:
    """(pool, test): `share` of every class' images, always the same ones, are the test; one remains."""
    drawn = [rows[: max(1, min(len(rows) - 1, round(share * len(rows))))] for rows in _drawn(images, 0)]
    held = np.sort(np.concatenate(drawn))
    return images.select(np.setdiff1d(np.arange(len(images), dtype=np.int64), held)), images.select(held)


def _drawn(images: ImageSet, seed: int) -> list[Int64s]:
    """The rows of each class, in an order drawn from the seed."""
    order = np.random.default_rng(seed).permutation(len(images)).astype(np.int64)
    return [order[images.labels[order] == label] for label in range(len(images.class_names))]


def _images(config: TaskConfig, size: int) -> tuple[ImageSet, ImageSet]:
    """(pool, test) of all classes: as the data set has it where it names test images of its classes."""
    if config.source not in NAMES:
        own = decoded(open_source(Path(config.source).expanduser()), size)
        if own.splits is None:
            return cut(own.images, config.test_share)
        parts = by_column(own.images, own.splits, validation_share=0)
    else:
        root = Path(config.root) if config.root else None
        parts = load(config.source, size=size, root=root, base_url=config.base_url, validation_share=0)
    if set(parts.train.class_names) == set(parts.test.class_names):
        return parts.train, parts.test
    return cut(parts.test, config.test_share)  # an open set: its test classes are the new ones


def _restricted(
    pool: ImageSet, test: ImageSet, config: TaskConfig, known: Collection[str]
) -> tuple[ImageSet, ImageSet]:
    names = [name for name in sorted(pool.class_names) if config.known == "keep" or name not in known]
    needed = max(2, config.classes or 0)
    if len(names) < needed:
        raise DataError(
            f"{len(names)} classes are new to the network, {needed} are needed: give other data, fewer "
            "task.classes, or task.known=keep for classes it was trained on"
        )
    chosen = names[: config.classes]
    return pool.classes(chosen), test.classes(chosen)
