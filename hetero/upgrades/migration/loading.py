"""Putting a gallery into an empty store, as its first version."""

from __future__ import annotations

import numpy as np

from hetero.progress import counter
from hetero.upgrades.gallery import check_gallery
from hetero.upgrades.stores import GalleryStore, next_version
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, check_same

FIRST = "v1"


def load_gallery(store: GalleryStore, gallery: Embeddings, batch: int = 4096) -> str:
    """Write the gallery as version v1 and make it live once it is whole; returns the version.

    Killed, the same call goes on. DataError when the store has a live gallery, or another half-written
    one, and as `check_gallery`.
    """
    if (live := store.live()) is not None:
        raise DataError(f"{store.address} has a live gallery ({live}): upgrade it, or name another store")
    check_gallery(gallery)
    versions = store.versions()
    if next_version(versions) == FIRST:
        store.create(FIRST, gallery.space)
    else:
        check_same(gallery.space, versions[FIRST], "the gallery", f"version {FIRST} in {store.address}")
    have = store.ids(FIRST)
    if len(np.setdiff1d(have, gallery.ids)):
        raise DataError(f"{store.address} holds the beginning of another gallery: name another store")
    todo = np.flatnonzero(~np.isin(gallery.ids, have))
    with counter("loading", len(todo)) as advance:
        for start in range(0, len(todo), batch):
            rows = todo[start : start + batch]
            store.write(FIRST, gallery.select(rows))
            advance(len(rows))
    store.point(FIRST)
    return FIRST
