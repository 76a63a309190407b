"""Searching a store whose gallery is being migrated: each part in its own space, merged as it may be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetero.upgrades.backfill.calibration import Calibration
from hetero.upgrades.migration.state import State
from hetero.upgrades.stores import GalleryStore, StoreHits, best_of
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings

Ids = npt.NDArray[np.int64]
Calibrations = tuple[Calibration, Calibration]


def search_during(
    store: GalleryStore,
    state: State,
    old_query: Embeddings | None,
    new_query: Embeddings,
    k: int,
    calibrations: Calibrations | None = None,
) -> StoreHits:
    """The k images that each query finds in the migrated part and in the rest, none of them twice.

    In one space the scores are inner products and `old_query` is not needed. In two spaces the parts are
    merged by quantile, or, where `calibrations` (old, new) are given, by calibrated score; the scores
    returned are then 1 - quantile, or standard deviations above chance, never inner products. Equal scores:
    the migrated part first. SpaceMismatch for a query of another space, DataError for missing old queries.
    """
    moved = store.ids(state.new_version)
    versions = store.versions()
    compatible = versions[state.old_version] == versions[state.new_version]
    if old_query is None and not compatible:
        raise DataError("the old gallery is in another space: give the queries in that space too")
    old_side = new_query if compatible or old_query is None else old_query
    new = store.search(state.new_version, new_query, k)
    old = store.search(state.old_version, old_side, k, without=moved)
    if compatible:
        return best_of([new, old], k)
    if calibrations is not None:
        old_calibration, new_calibration = calibrations
        scored = [_calibrated(new, new_query, new_calibration), _calibrated(old, old_side, old_calibration)]
        return best_of(scored, k)
    rest = np.setdiff1d(store.ids(state.old_version), moved)
    return best_of([_by_quantile(new, new_query, moved), _by_quantile(old, old_side, rest)], k)


def _by_quantile(hits: StoreHits, query: Embeddings, part: Ids) -> StoreHits:
    """Scores 1 - (r + 1/2) / n, n the number of images of the part that are not the query itself."""
    candidates = len(part) - np.isin(query.ids, part)
    places = np.arange(hits.ids.shape[1]) + 0.5
    shares = 1 - places[None] / np.maximum(candidates, 1)[:, None]
    return StoreHits(hits.ids, np.where(hits.ids >= 0, shares, -np.inf))


def _calibrated(hits: StoreHits, query: Embeddings, calibration: Calibration) -> StoreHits:
    mean, sd = calibration.of(query)
    return StoreHits(hits.ids, ((hits.scores - mean[:, None]) / sd[:, None]).astype(np.float32))
