"""The labelled sample on which a curve is measured."""

from __future__ import annotations

import numpy as np

from hetero.upgrades.backfill.mixed import Upgrade
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings


def sample_of(
    gallery: Embeddings, new_gallery: Embeddings, new_query: Embeddings, old_query: Embeddings | None = None
) -> Upgrade:
    """The rows of the old `gallery` that `new_gallery` has too, in its order, with the queries.

    new_gallery: some or all of the gallery's images by the new model. Curves of a part flatter neither order,
    but a smaller gallery is easier to search. DataError for an image that the old gallery lacks, or another
    label; SpaceMismatch as `Upgrade`.
    """
    order = np.argsort(gallery.ids, kind="stable")
    place = np.searchsorted(gallery.ids, new_gallery.ids, sorter=order).clip(max=max(0, len(order) - 1))
    if not len(order) or not len(new_gallery):
        raise DataError("the gallery or its sample is empty: there is nothing to measure")
    rows = order[place].astype(np.int64)
    missing = gallery.ids[rows] != new_gallery.ids
    if missing.any():
        raise DataError(
            f"the sample holds an image that the old gallery lacks (id {new_gallery.ids[missing][0]}): "
            "embed images of the gallery"
        )
    for side in (new_gallery, new_query):
        side.check()
    return Upgrade(old_query, new_query, gallery.select(rows), new_gallery)
