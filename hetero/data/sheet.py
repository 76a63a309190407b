"""A picture of a data set: one row a class, as a person would want to see before training on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hetero.data.imageset import ImageSet
from hetero_devices.files import atomic_file

_GAP = 2


def contact_sheet(images: ImageSet, path: Path, classes: int = 12, per_class: int = 12) -> None:
    """Write a PNG of the first `per_class` images of `classes` classes spread over the set."""
    present = np.unique(images.labels)
    chosen = present[np.linspace(0, len(present) - 1, min(classes, len(present))).round().astype(np.int64)]
    step = images.size + _GAP
    sheet = np.full((len(chosen) * step, per_class * step, 3), 255, np.uint8)
    for row, label in enumerate(chosen):
        for column, index in enumerate(np.flatnonzero(images.labels == label)[:per_class]):
            top, left = row * step, column * step
            sheet[top : top + images.size, left : left + images.size] = images.images[index]
    with atomic_file(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
