"""Which training images calibrate the quantisers, and which travel with the bundle."""

from __future__ import annotations

import numpy as np

from hetero.data.imageset import Images, ImageSet
from hetero.recipes.recipe import ExportConfig
from hetero_export.calibration import Calibration
from hetero_export.formats import needs_calibration


def calibration(images: ImageSet, config: ExportConfig, seed: int) -> Calibration | None:
    """What the quantisers are given, of training images; None where no precision asks for it."""
    if not needs_calibration(config.precisions):
        return None
    chosen = config.calibration
    return Calibration(balanced(images, chosen.images, seed), chosen.method, chosen.percentile)


def balanced(images: ImageSet, count: int, seed: int) -> Images:
    """`count` images, taken from as many classes as there are: uint8 [count, S, S, 3]."""
    order = np.random.default_rng(seed).permutation(len(images))
    _, first = np.unique(images.labels[order], return_index=True)
    rest = np.setdiff1d(np.arange(len(order)), first, assume_unique=True)
    return images.select(np.sort(order[np.concatenate([first, rest])[:count]])).images


def spread(images: ImageSet, count: int) -> Images:
    """`count` images spread evenly over the set: uint8 [count, S, S, 3]."""
    rows = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(np.int64)
    return images.select(np.unique(rows)).images
