"""Decoded images with their labels: what every source becomes and everything downstream reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError

Images = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ImageSet:
    """Square RGB images and one row of columns for each.

    images: uint8 [N, S, S, 3], possibly memory-mapped; labels: int64 [N], indices into `class_names`;
    ids: int64 [N], unique, the position in the decoded source, kept by every selection;
    groups: int64 [N], a source of within-class variation (the drawer of an Omniglot character), 0 if none;
    is_query, is_gallery: bool [N], or None where the source designates no sides.
    Raises DataError when a column has the wrong type or length, or ids repeat.
    """

    images: Images
    labels: Int64s
    ids: Int64s
    groups: Int64s
    class_names: tuple[str, ...]
    is_query: Bools | None = None
    is_gallery: Bools | None = None

    def __post_init__(self) -> None:
        _check_images(self.images)
        for name in ("labels", "ids", "groups"):
            _check_column(name, getattr(self, name), np.dtype(np.int64), len(self))
        for name in ("is_query", "is_gallery"):
            if getattr(self, name) is not None:
                _check_column(name, getattr(self, name), np.dtype(np.bool_), len(self))
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise DataError(
                f"labels span {self.labels.min()} to {self.labels.max()}, "
                f"but there are {len(self.class_names)} class names"
            )
        if len(np.unique(self.ids)) != len(self):
            raise DataError("ids repeat: each image needs an id of its own")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """The side of the images in pixels."""
        return int(self.images.shape[1])

    def counts(self) -> Int64s:
        """Images per class: int64 [len(class_names)]."""
        return np.bincount(self.labels, minlength=len(self.class_names)).astype(np.int64)

    def select(self, rows: Int64s | Bools, relabel: bool = False) -> ImageSet:
        """The given rows (indices or a mask), in that order, with their ids.

        Consecutive rows stay a view of a memory-mapped file; others are copied into memory.
        `relabel` drops the classes that have no image left and renumbers the rest from 0.
        """
        index = _as_slice(np.arange(len(self), dtype=np.int64)[rows])
        chosen = ImageSet(
            self.images[index],
            self.labels[index],
            self.ids[index],
            self.groups[index],
            self.class_names,
            None if self.is_query is None else self.is_query[index],
            None if self.is_gallery is None else self.is_gallery[index],
        )
        return chosen.relabelled() if relabel else chosen

    def relabelled(self) -> ImageSet:
        """The same images with labels numbered from 0 over the classes that have an image, in their order."""
        present, labels = np.unique(self.labels, return_inverse=True)
        names = tuple(self.class_names[label] for label in present)
        return replace(self, labels=labels.reshape(-1).astype(np.int64), class_names=names)

    def classes(self, names: Iterable[str]) -> ImageSet:
        """The images of the named classes, in row order; labels index the names sorted as they are here.

        Raises DataError for a name that is not a class of this set.
        """
        wanted = set(names)
        if unknown := sorted(wanted.difference(self.class_names)):
            raise DataError(f"no class named {unknown[0]!r} among {len(self.class_names)} classes")
        keep = np.array([name in wanted for name in self.class_names], dtype=np.bool_)
        return self.select(keep[self.labels], relabel=True)


def class_columns(names: Sequence[str]) -> tuple[Int64s, tuple[str, ...]]:
    """Labels int64 [N] and the sorted class names for one class name an image."""
    class_names = tuple(sorted(set(names)))
    index = {name: label for label, name in enumerate(class_names)}
    return np.array([index[name] for name in names], dtype=np.int64), class_names


def _as_slice(indices: Int64s) -> slice | Int64s:
    """A slice where `indices` are consecutive: slicing a memory map copies nothing."""
    if not len(indices):
        return slice(0, 0)
    first, last = int(indices[0]), int(indices[-1])
    consecutive = last - first + 1 == len(indices) and first >= 0 and bool((np.diff(indices) == 1).all())
    return slice(first, last + 1) if consecutive else indices


def _check_images(images: Images) -> None:
    square = images.ndim == 4 and images.shape[1] == images.shape[2] and images.shape[3] == 3
    if images.dtype != np.uint8 or not square:
        raise DataError(f"images are {images.dtype} {list(images.shape)}, expected uint8 [N, S, S, 3]")


def _check_column(
    name: str, column: npt.NDArray[np.generic], dtype: np.dtype[np.generic], count: int
) -> None:
    if column.dtype != dtype or column.shape != (count,):
        raise DataError(f"{name} are {column.dtype} {list(column.shape)}, expected {dtype} [{count}]")
