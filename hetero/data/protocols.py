"""Which images are queries and which are the gallery they are searched in."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from hetero.data.imageset import Bools, ImageSet
from hetero_devices.errors import DataError

NAMES = ("leave-one-out", "one-per-class", "group=N", "designated")


@dataclass(frozen=True)
class QueryGallery:
    """The two sides of a search. An image may be on both: whoever evaluates excludes it by its id."""

    query: ImageSet
    gallery: ImageSet
    description: str


def protocol(name: str, images: ImageSet, seed: int = 0) -> QueryGallery:
    """Apply the protocol called `name` (see NAMES) to a set; `seed` serves one-per-class.

    Raises DataError for an unknown name, or a set that cannot serve: the message names the class.
    """
    if name.startswith("group=") and name[6:].isdecimal():
        return one_group(images, int(name[6:]))
    match name:
        case "leave-one-out":
            return leave_one_out(images)
        case "one-per-class":
            return one_per_class(images, seed)
        case "designated":
            return designated(images)
    nearest = get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
    raise DataError(f"no protocol {name!r}; did you mean {nearest!r}? There are {', '.join(NAMES)}")


def leave_one_out(images: ImageSet) -> QueryGallery:
    """Every image against all others. A class of one image could never be found: DataError."""
    counts = images.counts()
    _check_not_empty(images)
    if (counts < 2).any():
        lonely = images.class_names[int((counts < 2).argmax())]
        raise DataError(
            f"class {lonely!r} has {counts.min()} image(s), leave-one-out needs two: "
            "add images or remove the class"
        )
    return QueryGallery(images, images, f"leave-one-out over {len(images)} images")


def one_group(images: ImageSet, group: int) -> QueryGallery:
    """Gallery: the images of one group, e.g. one drawer's characters; queries: all others."""
    inside = images.groups == group
    _check_covers(images, inside, f"in group {group}")
    return _divide(images, inside, f"gallery of group {group}")


def one_per_class(images: ImageSet, seed: int = 0) -> QueryGallery:
    """Gallery: one image of each class, drawn by `seed`; queries: all others."""
    _check_not_empty(images)
    order = np.random.default_rng(seed).permutation(len(images))
    _, first = np.unique(images.labels[order], return_index=True)
    inside = np.zeros(len(images), dtype=np.bool_)
    inside[order[first]] = True
    _check_covers(images, inside, "at all")
    return _divide(images, inside, "gallery of one image a class")


def designated(images: ImageSet) -> QueryGallery:
    """The sides that the source itself names (columns is_query and is_gallery)."""
    if images.is_query is None or images.is_gallery is None:
        raise DataError(
            "this data set designates no sides: give its manifest is_query and is_gallery columns"
        )
    query, gallery = images.select(images.is_query), images.select(images.is_gallery)
    for side, part in (("is_query", query), ("is_gallery", gallery)):
        if not len(part):
            raise DataError(f"no image has {side} set")
    if lost := set(query.labels.tolist()).difference(gallery.labels.tolist()):
        raise DataError(f"class {images.class_names[min(lost)]!r} has queries but no image in the gallery")
    return QueryGallery(query, gallery, "designated query and gallery")


def _divide(images: ImageSet, gallery: Bools, description: str) -> QueryGallery:
    if gallery.all():
        raise DataError("no image is left as a query: every class has one image only")
    sides = images.select(~gallery), images.select(gallery)
    return QueryGallery(*sides, f"{description}: {len(sides[0])} queries, {len(sides[1])} in the gallery")


def _check_covers(images: ImageSet, gallery: Bools, where: str) -> None:
    _check_not_empty(images)
    held = np.bincount(images.labels[gallery], minlength=len(images.class_names))
    if (held == 0).any():
        raise DataError(f"class {images.class_names[int((held == 0).argmax())]!r} has no image {where}")


def _check_not_empty(images: ImageSet) -> None:
    if not len(images):
        raise DataError("the set is empty: there is nothing to search")
