"""Verification, 1:1: is this pair one identity? TAR at a fixed FAR, and the ROC, exactly, at bounded memory.

All pairs of a query and a gallery row are trials, except an image with itself; pairs of one label are
genuine, all others impostors. A histogram of impostor scores would be inexact. The threshold of a false
acceptance rate f is decided by the highest f x impostors scores alone, so only those are kept: one pass over
all pairs, memory = one block + the genuine scores + that many impostor scores.

TAR@FAR as in Klare et al., IARPA Janus Benchmark A (CVPR 2015), with "score > threshold" for acceptance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.retrieval.operating import OperatingPoint, allowed, operating_point
from hetero.retrieval.scoring import BLOCK_BYTES, EXCLUDED, prepare, whole_rows
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings

Floats = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

MAX_KEPT = 2**27  # impostor scores: 512 MB


@dataclass(frozen=True)
class PairScores:
    """genuine: float32 [P], in query order. impostors: float32 [M], descending, the highest of all
    `impostor_count`; M is what the largest FAR asked for needs."""

    genuine: Floats
    impostors: Floats
    impostor_count: int


@dataclass(frozen=True)
class Roc:
    """far, tar: float64 [T], ascending; thresholds: float64 [T], descending: scores above are accepted."""

    far: Values
    tar: Values
    thresholds: Values


@dataclass(frozen=True)
class Transfer:
    """An operating threshold chosen on the old embeddings, and the same number applied to the new ones."""

    old: OperatingPoint
    new: OperatingPoint

    @property
    def far_drift(self) -> float:
        """How many times as many impostors the unchanged threshold lets in; 1 is no drift."""
        return self.new.false_rate / self.old.false_rate if self.old.false_rate else np.inf


def pair_scores(
    query: Embeddings,
    gallery: Embeddings,
    *,
    max_far: float = 1e-2,
    block_bytes: int = BLOCK_BYTES,
    across_spaces: bool = False,
) -> PairScores:
    """Scores of every genuine pair and of the impostor pairs that decide any FAR up to `max_far`.

    DataError when that would be more than MAX_KEPT impostors; else as `hetero.retrieval.search`.
    """
    parts, count = _parts(query, gallery, block_bytes, across_spaces)
    kept = min(count, allowed(max_far, max(1, count)) + 1)
    if kept > MAX_KEPT:
        raise DataError(f"FAR {max_far:g} of {count} impostor pairs keeps {kept} scores: ask for a lower FAR")
    genuine, highest = [np.empty(0, np.float32)], _Highest(kept)
    for right, wrong in parts:
        genuine.append(right)
        highest.add(wrong)
    return PairScores(np.concatenate(genuine), highest.descending(), count)


def tar_at_far(scores: PairScores, far: float) -> OperatingPoint:
    """The share of genuine pairs accepted (`true_rate`) where at most `far` of the impostor pairs are."""
    return operating_point(scores.genuine, scores.impostors, scores.impostor_count, far)


def roc(scores: PairScores) -> Roc:
    """The ROC up to the largest FAR that was kept, one point for each different impostor score."""
    if not len(scores.genuine) or not len(scores.impostors):
        raise DataError("a ROC needs genuine and impostor pairs")
    thresholds, earlier = np.unique(-scores.impostors, return_index=True)
    genuine = np.sort(scores.genuine)
    above = len(genuine) - np.searchsorted(genuine, -thresholds, side="right")
    return Roc(earlier / scores.impostor_count, above / len(genuine), -thresholds.astype(np.float64))


def rates_at(
    query: Embeddings,
    gallery: Embeddings,
    threshold: float,
    *,
    block_bytes: int = BLOCK_BYTES,
    across_spaces: bool = False,
) -> OperatingPoint:
    """FAR and TAR of a given threshold, by counting every pair."""
    parts, count = _parts(query, gallery, block_bytes, across_spaces)
    accepted = trials = false = 0
    for right, wrong in parts:
        accepted, trials = accepted + int((right > threshold).sum()), trials + len(right)
        false += int((wrong > threshold).sum())
    if not trials or not count:
        raise DataError(f"{trials} genuine and {count} impostor pairs: rates need both")
    return OperatingPoint(threshold, false / count, accepted / trials)


def threshold_transfer(
    old: tuple[Embeddings, Embeddings],
    new: tuple[Embeddings, Embeddings],
    far: float,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> Transfer:
    """Choose the threshold of `far` on the old (query, gallery), and apply it to the new pair as it is.

    "Post-processing need not change" is true where TAR does not fall and `far_drift` stays near 1. The two
    pairs need not share a space: only a number is carried over.
    """
    chosen = tar_at_far(pair_scores(*old, max_far=far, block_bytes=block_bytes), far)
    return Transfer(chosen, rates_at(*new, chosen.threshold, block_bytes=block_bytes))


class _Highest:
    """The highest `count` of all numbers added, at a memory of about twice that and one row."""

    def __init__(self, count: int) -> None:
        self._count, self._size, self._floor = count, 0, -np.inf
        self._parts: list[Floats] = []

    def add(self, values: Floats) -> None:
        chosen = values[values > self._floor] if self._floor > -np.inf else values
        self._parts.append(chosen)
        self._size += len(chosen)
        if self._size > 2 * self._count:
            self._trim()

    def descending(self) -> Floats:
        self._trim()
        found: Floats = np.sort(self._parts[0])[::-1]
        return found

    def _trim(self) -> None:
        together = np.concatenate([np.empty(0, np.float32), *self._parts])
        if len(together) > self._count:
            together = np.partition(together, len(together) - self._count)[-self._count :]
            self._floor = float(together.min(initial=np.inf))
        self._parts, self._size = [together], len(together)


def _parts(
    query: Embeddings, gallery: Embeddings, block_bytes: int, across_spaces: bool
) -> tuple[Iterator[tuple[Floats, Floats]], int]:
    """For each query its genuine and its impostor scores; and the number of impostor pairs."""
    protocol = prepare(query, gallery, across_spaces)
    trials = len(query) * len(gallery) - int(protocol.excluded_counts().sum())

    def rows() -> Iterator[tuple[Floats, Floats]]:
        for start, block in whole_rows(query, gallery, protocol, block_bytes):
            for i, scores in enumerate(block, start):
                right = scores[protocol.relevant(i)]
                scores[protocol.relevant(i)] = EXCLUDED
                yield right, scores[scores > EXCLUDED]

    return rows(), trials - int(protocol.offsets[-1])
