"""The images of `conversions.py`: generated glyphs, one plain picture a class, and changed views of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hetero.data import augment
from hetero.data.augment import AugmentConfig
from hetero.data.glyphs import GlyphRecipe, load_glyphs
from hetero.data.imageset import Images, ImageSet

TRAINING, TEST = 96, 64  # classes
CALIBRATION, GOLDEN, VIEWS = 64, 8, 2


@dataclass(frozen=True)
class Data:
    """Images uint8 [N, S, S, 3] of one size.

    lessons: one picture of each training class; settling, calibration, golden: changed views of them, as
    training sees them; gallery: one picture of each test class; query: two changed views of each.
    """

    lessons: ImageSet
    settling: Images
    calibration: Images
    golden: Images
    query: Images
    gallery: Images

    @classmethod
    def load(cls, size: int, seed: int) -> Data:
        recipe = GlyphRecipe(size=size, training=TRAINING, test=TEST, per_class=2, seed=seed)
        splits = load_glyphs(recipe, validation_share=0)
        lessons, test = _plain(splits.train), _plain(splits.test)
        return cls(
            lessons,
            settling=_views(lessons.images, seed),
            calibration=_views(lessons.images[:CALIBRATION], seed + 1),
            golden=_views(lessons.images[-GOLDEN:], seed + 2),
            query=np.concatenate([_views(test.images, seed + 3 + view) for view in range(VIEWS)]),
            gallery=test.images,
        )

    def hits(self, first: np.ndarray) -> float:
        """Share of the queries whose first gallery image, int [Q], shows their class."""
        return float((first == np.arange(len(self.query)) % len(self.gallery)).mean())


def _plain(images: ImageSet) -> ImageSet:
    return images.select(np.flatnonzero(images.groups == 0))


def _views(images: Images, seed: int) -> Images:
    """One augmentation of each image, as in training."""
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()
    drawn = augment.draw(len(pixels), torch.Generator().manual_seed(seed))
    changed = augment.apply(pixels, drawn, AugmentConfig())
    views: Images = changed.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()
    return views
