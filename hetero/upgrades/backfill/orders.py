"""Which gallery rows to re-embed first: pure functions that return a permutation of the rows.

Each needs only what is known before the new model has seen the gallery: the old vectors, labels, and what was
searched for. Ties keep gallery order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]

OrderName = Literal["random", "class-mean", "uncertainty", "class-size", "traffic"]
ORDERS: tuple[OrderName, ...] = get_args(OrderName)

SCALE = 16.0
"""Of cosines before the softmax of `most_uncertain_first`."""

_BLOCK = 65_536


def random_order(count: int, seed: int) -> Rows:
    """A uniformly drawn permutation of 0..count-1: int64 [count]."""
    return np.random.default_rng(seed).permutation(count).astype(np.int64)


def farthest_from_class_mean_first(gallery: Embeddings) -> Rows:
    """Rows by falling distance of their old vector from the mean of their class: int64 [N].

    The order with which λ-Orthogonality (NeurIPS 2025, arXiv 2509.16664) reaches the new model's accuracy
    with less than half of the gallery re-embedded.
    """
    means, place = class_means(gallery)
    distances = np.concatenate(
        [
            np.linalg.norm(block - means[place[start : start + len(block)]], axis=1)
            for start, block in _blocks(gallery)
        ]
        or [np.empty(0)]
    )
    return _falling(distances)


def most_uncertain_first(gallery: Embeddings, prototypes: Floats | None = None, scale: float = SCALE) -> Rows:
    """Rows by falling entropy of softmax_j(scale <g, w_j>), w_j of unit length: int64 [N].

    prototypes: float32 [C, D], the old model's class head; without one the class means of the gallery.
    FastFill (ICLR 2023) re-embeds the most uncertain first by a variance that its link learns; entropy is
    the stand-in that needs no training. DataError when the prototypes are of another dimension.
    """
    heads = class_means(gallery)[0] if prototypes is None else prototypes.astype(np.float64)
    if heads.ndim != 2 or heads.shape[1] != gallery.space.dim:
        raise DataError(f"prototypes are {list(heads.shape)}, expected [classes, {gallery.space.dim}]")
    unit = heads / np.maximum(np.linalg.norm(heads, axis=1, keepdims=True), 1e-12)
    entropies = [_entropy(scale * (block @ unit.T)) for _, block in _blocks(gallery, len(unit))]
    return _falling(np.concatenate(entropies or [np.empty(0)]))


def by_class_size(labels: Rows, largest_first: bool = True) -> Rows:
    """Whole classes after one another by their number of rows: int64 [N]. labels: int64 [N].

    Largest first: each finished class serves the most rows. Classes of one size in order of their label.
    """
    classes, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    keys = -sizes if largest_first else sizes
    return np.lexsort((classes[place], keys[place])).astype(np.int64)


def by_traffic(counts: Rows) -> Rows:
    """Rows by falling count: int64 [N]. counts: int64 [N], how often each was returned; see `hit_counts`."""
    return _falling(counts.astype(np.float64))


def hit_counts(rows: Rows, count: int) -> Rows:
    """How often each of `count` gallery rows occurs among the hits int64 [Q, k] (-1: none): int64 [count]."""
    return np.bincount(rows[rows >= 0], minlength=count).astype(np.int64)


def order(
    name: OrderName,
    gallery: Embeddings,
    *,
    seed: int = 0,
    prototypes: Floats | None = None,
    traffic: Rows | None = None,
) -> Rows:
    """The named order of the old gallery's rows: int64 [N].

    traffic: int64 [N], needed by the order of that name. Raises DataError for an unknown name, NaN vectors,
    or a traffic that does not fit.
    """
    gallery.check()
    match name:
        case "random":
            return random_order(len(gallery), seed)
        case "class-mean":
            return farthest_from_class_mean_first(gallery)
        case "uncertainty":
            return most_uncertain_first(gallery, prototypes)
        case "class-size":
            return by_class_size(gallery.labels)
        case "traffic":
            return by_traffic(_counted(traffic, len(gallery)))
    raise DataError(f"there is no order {name!r}: choose one of {', '.join(ORDERS)}")


def class_means(gallery: Embeddings) -> tuple[Scores, Rows]:
    """Mean vector of each class that occurs, float64 [C, D], and each row's class in it, int64 [N]."""
    classes, place = np.unique(gallery.labels, return_inverse=True)
    sums = np.zeros((len(classes), gallery.space.dim))
    for start, block in _blocks(gallery):
        np.add.at(sums, place[start : start + len(block)], block)
    return sums / np.bincount(place, minlength=len(classes))[:, None], place.astype(np.int64)


def _counted(traffic: Rows | None, count: int) -> Rows:
    if traffic is None:
        raise DataError("the order 'traffic' needs the embeddings of logged queries: give --traffic FOLDER")
    if traffic.shape != (count,):
        raise DataError(f"traffic is {list(traffic.shape)}, expected one count for each of {count} rows")
    return traffic


def _blocks(gallery: Embeddings, width: int = 1) -> Iterator[tuple[int, Scores]]:
    """(first row, vectors float64 [b, D]); blocks are smaller where each row is compared with `width`."""
    step = max(1, _BLOCK // max(1, width // gallery.space.dim))
    for start in range(0, len(gallery), step):
        yield start, np.asarray(gallery.vectors[start : start + step], np.float64)


def _entropy(logits: Scores) -> Scores:
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1)
    expected = (np.exp(shifted) * shifted).sum(axis=1) / total
    entropy: Scores = np.log(total) - expected
    return entropy


def _falling(values: Scores) -> Rows:
    return np.argsort(-values, kind="stable").astype(np.int64)
