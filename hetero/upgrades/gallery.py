"""What any gallery must be before it is planned for, or stored."""

from __future__ import annotations

import numpy as np

from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings


def check_gallery(gallery: Embeddings) -> None:
    """Raise DataError for a gallery that cannot be upgraded: without images, NaN, an id twice."""
    if not len(gallery):
        raise DataError("the gallery has no images: embed some first")
    gallery.check()
    ids, counts = np.unique(gallery.ids, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"id {ids[counts > 1][0]} occurs twice in the gallery: ids must be unique per image")
