"""The best k of several lists of hits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hetero.upgrades.stores.store import StoreHits

Ids = npt.NDArray[np.int64]


def best_of(parts: Sequence[StoreHits], k: int) -> StoreHits:
    """Merge lists of hits whose scores are of one space; equal scores stay in the order of the lists."""
    ids = np.concatenate([part.ids for part in parts], axis=1)
    scores = np.concatenate([part.scores for part in parts], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = StoreHits(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))
    return _padded(found, k)


def dropped(hits: StoreHits, out: Ids, own: Ids) -> StoreHits:
    """Hits without the ids in `out`, int64, and without each query's own id, int64 [Q]; order kept."""
    gone = np.isin(hits.ids, out) | (hits.ids == own[:, None])
    ids, scores = np.where(gone, -1, hits.ids), np.where(gone, -np.inf, hits.scores).astype(np.float32)
    order = np.argsort(ids < 0, axis=1, kind="stable")
    return StoreHits(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))


def _padded(hits: StoreHits, k: int) -> StoreHits:
    missing = k - hits.ids.shape[1]
    if missing <= 0:
        return hits
    ids = np.pad(hits.ids, ((0, 0), (0, missing)), constant_values=-1)
    return StoreHits(ids, np.pad(hits.scores, ((0, 0), (0, missing)), constant_values=-np.inf))
