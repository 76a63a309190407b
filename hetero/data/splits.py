"""Train, validation and test sets. Validation always comes out of the training classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.data.imageset import Bools, ImageSet
from hetero_devices.errors import DataError


@dataclass(frozen=True)
class Splits:
    """Three image sets, each with its own `class_names` and labels numbered from 0.

    validation: for choosing hyper-parameters, empty when none was asked for; test: looked at once a figure.
    protocol: the name of the query/gallery protocol that `hetero.data.protocol` should apply to test.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    protocol: str = "leave-one-out"


def class_disjoint(
    images: ImageSet,
    *,
    test_share: float = 0.5,
    validation_share: float = 0.1,
    seed: int | None = None,
    protocol: str = "leave-one-out",
) -> Splits:
    """Split by class: no class stands on two sides.

    test_share: of all classes, the last; validation_share: of the remaining (training) classes, the last.
    Classes are taken in name order, or shuffled by `seed`. Raises DataError for too few or empty classes.
    """
    _check_classes(images)
    names = list(images.class_names)
    if seed is not None:
        names = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    training, test = cut(names, test_share, "test")
    return from_classes(images, training, test, validation_share, protocol)


def from_classes(
    images: ImageSet,
    training: Sequence[str],
    test: Sequence[str],
    validation_share: float,
    protocol: str = "leave-one-out",
) -> Splits:
    """Splits from explicit classes; the last `validation_share` of `training` becomes validation."""
    train, validation = cut(training, validation_share, "validation")
    return Splits(images.classes(train), images.classes(validation), images.classes(test), protocol)


def by_column(
    images: ImageSet, splits: npt.NDArray[np.str_], validation_share: float, protocol: str = "leave-one-out"
) -> Splits:
    """Honour a column str [N] that says "train", "validation" or "test".

    Without validation rows, validation is taken from the training rows: whole classes where train and test
    share none (open set), else the last `validation_share` of each class' images (closed set).
    """
    _check_classes(images)
    train, test = (images.select(splits == name, relabel=True) for name in ("train", "test"))
    for name, part in (("train", train), ("test", test)):
        if not len(part):
            raise DataError(f"no image has the split {name!r}")
    if (splits == "validation").any():
        return Splits(train, images.select(splits == "validation", relabel=True), test, protocol)
    if set(train.class_names).isdisjoint(test.class_names):
        inner = from_classes(train, train.class_names, (), validation_share)
        return Splits(inner.train, inner.validation, test, protocol)
    held = _last_of_each_class(train, validation_share)
    return Splits(train.select(~held), train.select(held), test, protocol)


def _last_of_each_class(images: ImageSet, share: float) -> Bools:
    """Mask bool [N] of the last `share` of every class' rows, always leaving at least one."""
    held = np.zeros(len(images), dtype=np.bool_)
    for label in range(len(images.class_names)):
        rows = np.flatnonzero(images.labels == label)
        count = min(len(rows) - 1, round(share * len(rows)))
        held[rows[len(rows) - count :]] = True
    return held


def restricted(images: ImageSet, classes: int | None, share: float, seed: int) -> ImageSet:
    """A training set cut down, as an older model may have had it: fewer classes, fewer images of each.

    classes: the first by name, None for all; share: of every class' images, drawn by `seed`, at least one.
    Rows keep their order and ids. Raises DataError when there are not so many classes.
    """
    if classes is not None:
        if classes > len(images.class_names):
            raise DataError(
                f"train_classes is {classes}, the training set has {len(images.class_names)} classes: "
                "ask for fewer, or for none to be left out"
            )
        images = images.classes(sorted(images.class_names)[:classes])
    if share == 1:
        return images
    order = np.random.default_rng(seed).permutation(len(images))
    kept = np.zeros(len(images), np.bool_)
    for label in range(len(images.class_names)):
        rows = order[images.labels[order] == label]
        kept[rows[: max(1, round(share * len(rows)))]] = True
    return images.select(kept)


def cut(names: Sequence[str], share: float, held_out: str) -> tuple[Sequence[str], Sequence[str]]:
    """(kept, the last `share` of the names): for a positive share at least one, never all."""
    if not 0 <= share < 1:
        raise DataError(f"{held_out} share is {share}, expected 0 <= share < 1")
    if share > 0 and len(names) < 2:
        raise DataError(
            f"{len(names)} class(es) are too few to hold out a {held_out} set: at least 2 are needed"
        )
    count = 0 if share == 0 else min(len(names) - 1, max(1, round(share * len(names))))
    return names[: len(names) - count], names[len(names) - count :]


def _check_classes(images: ImageSet) -> None:
    counts = images.counts()
    if not len(counts):
        raise DataError("there are no classes to split")
    if counts.min() == 0:
        raise DataError(f"class {images.class_names[int(counts.argmin())]!r} has no images")
