"""Where the new vectors come from: a folder of embeddings, or images and the new model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hetero.data.imageset import ImageSet
from hetero.models.encoder import Encoder, embed
from hetero.upgrades.gallery import check_gallery
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, Space

Ids = npt.NDArray[np.int64]


class NewVectors(Protocol):
    """New vectors by id."""

    @property
    def space(self) -> Space: ...

    @property
    def ids(self) -> Ids:
        """Every id it can give: int64 [N]."""
        ...

    def fetch(self, ids: Ids) -> Embeddings:
        """The new embeddings of these ids, in this order."""
        ...


class StoredVectors:
    """A folder that `hetero embed` wrote with the new model; vectors stay on disk until asked for."""

    def __init__(self, folder: Path) -> None:
        self._stored = Embeddings.load(folder)
        check_gallery(self._stored)  # now: a migration is bound to the source it begins with
        self._places = Places(self._stored.ids)

    @property
    def space(self) -> Space:
        return self._stored.space

    @property
    def ids(self) -> Ids:
        return self._stored.ids

    def fetch(self, ids: Ids) -> Embeddings:
        return self._stored.select(self._places.of(ids))


class EmbeddedImages:
    """Images that the new model embeds a batch at a time."""

    def __init__(self, encoder: Encoder, images: ImageSet) -> None:
        self._encoder, self._images = encoder, images
        self._places = Places(images.ids)

    @property
    def space(self) -> Space:
        return self._encoder.space

    @property
    def ids(self) -> Ids:
        return self._images.ids

    def fetch(self, ids: Ids) -> Embeddings:
        return embed(self._encoder, self._images.select(self._places.of(ids)))


@dataclass(frozen=True, init=False)
class Places:
    """At which row an id stands."""

    ids: Ids
    order: Ids

    def __init__(self, ids: Ids) -> None:
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "order", np.argsort(ids, kind="stable"))

    def of(self, ids: Ids) -> Ids:
        """int64 rows; DataError naming an id that is missing."""
        rows = self.order[np.searchsorted(self.ids, ids, sorter=self.order).clip(max=len(self.order) - 1)]
        wrong = self.ids[rows] != ids
        if wrong.any():
            raise DataError(f"there is no new vector for the gallery's id {ids[wrong][0]}")
        found: Ids = rows.astype(np.int64)
        return found
