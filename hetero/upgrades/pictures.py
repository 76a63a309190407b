"""Test images for any number of models: one protocol, at whatever size each model takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from hetero import data
from hetero.data import QueryGallery, protocol
from hetero.data.imageset import ImageSet
from hetero.runs.run import Run
from hetero_devices.space import Embeddings

Split = Literal["train", "validation", "test"]

_SHOWN = 64  # pixels, where no model asks for a size


class TestImages:
    """Query and gallery images; ids and labels do not depend on the size."""

    __test__ = False  # pytest: this is no test

    def __init__(self, load: Callable[[int], QueryGallery]) -> None:
        """load: from the side in pixels to the images."""
        self._load, self._loaded = load, dict[int, QueryGallery]()

    def at(self, size: int) -> QueryGallery:
        """The images at this many pixels a side, read once."""
        if size not in self._loaded:
            self._loaded[size] = self._load(size)
        return self._loaded[size]

    @property
    def shown(self) -> QueryGallery:
        """At the size that was asked for first: for pictures, labels and ids."""
        return next(iter(self._loaded.values()), None) or self.at(_SHOWN)

    @classmethod
    def of_source(
        cls,
        source: str,
        *,
        split: Split = "test",
        name: str | None = None,
        root: Path | None = None,
        seed: int = 0,
    ) -> TestImages:
        """A data set as `hetero data` names it; name: of the protocol, by default the data set's own."""

        def load(size: int) -> QueryGallery:
            splits = data.load(source, size=size, root=root, seed=seed)
            return protocol(name or splits.protocol, getattr(splits, split), seed)

        return cls(load)

    @classmethod
    def of_run(cls, run: Run) -> TestImages:
        """The test images of a run, by the run's protocol."""

        def load(size: int) -> QueryGallery:
            changed = run.recipe.data.model_copy(update={"size": size})
            return Run(run.folder, run.recipe.model_copy(update={"data": changed})).test

        return cls(load)


def pictures_of(embeddings: Embeddings, images: ImageSet) -> ImageSet | None:
    """The images that were embedded, row by row; None unless every id is there, with its label."""
    order = np.argsort(images.ids)
    place = np.searchsorted(images.ids, embeddings.ids, sorter=order).clip(max=len(order) - 1)
    rows = order[place]
    same = np.array_equal(images.ids[rows], embeddings.ids)
    if not same or not np.array_equal(images.labels[rows], embeddings.labels):
        return None
    return images.select(rows)
