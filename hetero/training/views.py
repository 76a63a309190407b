"""The anchor's embeddings of a fixed set of augmented views, so that it need not run in the loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hetero.data import augment
from hetero.data.augment import AugmentConfig
from hetero.models.encoder import Encoder
from hetero.progress import track
from hetero.training.items import TrainingItems
from hetero_devices.errors import SpaceMismatch
from hetero_devices.files import read_json, save_array, write_json

_BLOCK = 256


Rows = npt.NDArray[np.int64]


class Views:
    """View v of item i is one augmentation drawn from `seed` and v; view 0 is the image itself.

    The parameters are recomputed from the seed, so only vectors are stored: float32 [items, D] a view.
    """

    def __init__(self, items: TrainingItems, config: AugmentConfig, count: int, seed: int) -> None:
        self.items, self.config, self.count, self.seed = items, config, count, seed
        self._parameters = [self._draw(view) for view in range(count)]

    def _draw(self, view: int) -> Tensor | None:
        if view == 0:
            return None
        return augment.draw(len(self.items), torch.Generator().manual_seed(self.seed * 1009 + view))

    def shown(self, items: Rows, epoch: int) -> Rows:
        """int64 [B] -> int64 [B]: the view of each item in an epoch; after `count` epochs all were shown.

        Neighbouring items get different views, so that every batch mixes plain and changed images: with one
        view an epoch, batch statistics would end as those of the last view, which plain queries do not have.
        """
        return (items + epoch) % self.count

    def pixels(self, items: Rows, views: Rows) -> Tensor:
        """int64 [B] each -> float32 [B, 3, S, S], 0..255: the given view of each item."""
        pixels = self.items.pixels(items)
        for view, parameters in enumerate(self._parameters):
            rows = np.flatnonzero(views == view)
            if parameters is not None and len(rows):
                drawn = parameters[torch.from_numpy(items[rows])]
                pixels[rows] = augment.apply(pixels[rows], drawn, self.config)
        return pixels

    def describe(self) -> dict[str, object]:
        return {"augment": self.config.model_dump(), "seed": self.seed, "items": len(self.items)}


class CachedTargets:
    """The anchor's vectors of every view: float32 [views, items, D], on disk, filled view by view."""

    def __init__(self, folder: Path, views: Views, anchor: Encoder) -> None:
        self.views = views
        self._check(folder / "views.json", {**views.describe(), "space": anchor.space.to_json()})
        self._vectors = [self._open(folder / f"view{v}.npy", v, anchor) for v in range(views.count)]

    def targets(self, items: Rows, views: Rows) -> Tensor:
        """float32 [B, D], unit norm."""
        found = np.empty((len(items), self._vectors[0].shape[1]), np.float32)
        for view in np.unique(views):
            found[views == view] = self._vectors[view][items[views == view]]
        return torch.from_numpy(found)

    def reference(self) -> Tensor:
        """float32 [items, D]: the vectors of the images themselves."""
        return torch.from_numpy(np.array(self._vectors[0]))

    def _check(self, path: Path, description: dict[str, object]) -> None:
        if not path.exists():
            write_json(path, description)
        elif read_json(path) != description:
            raise SpaceMismatch(
                f"{path.parent} caches another anchor, data set or augmentation: "
                "delete it, or use another run folder"
            )

    def _open(self, path: Path, view: int, anchor: Encoder) -> npt.NDArray[np.float32]:
        if not path.exists():
            save_array(path, np.concatenate(list(self._encode(view, anchor))))
        cached: npt.NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
        return cached

    def _encode(self, view: int, anchor: Encoder) -> Iterator[npt.NDArray[np.float32]]:
        what = f"anchor embeds view {view + 1} of {self.views.count}"
        for items in _blocks(len(self.views.items), what):
            yield _encode(anchor, self.views.pixels(items, np.full_like(items, view)))


class LiveTargets:
    """The anchor runs in the loop, on the augmentation the student sees; nothing is stored."""

    def __init__(self, items: TrainingItems, anchor: Encoder) -> None:
        self.items, self.anchor = items, anchor

    def embed(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, S, S], 0..255 -> float32 [B, D], unit norm."""
        return torch.from_numpy(_encode(self.anchor, pixels))

    def reference(self) -> Tensor:
        """float32 [items, D]: the vectors of the images themselves, computed here."""
        blocks = _blocks(len(self.items), "anchor embeds the training images")
        return torch.from_numpy(
            np.concatenate([_encode(self.anchor, self.items.pixels(items)) for items in blocks])
        )


class StoredTargets:
    """A black-box anchor: one stored vector an image, the target of every augmentation of it."""

    def __init__(self, vectors: npt.NDArray[np.float32]) -> None:
        self._vectors = vectors

    def targets(self, items: Rows, views: Rows) -> Tensor:
        """float32 [B, D], unit norm."""
        return torch.from_numpy(np.array(self._vectors[items]))

    def reference(self) -> Tensor:
        """float32 [items, D]: all of them."""
        return torch.from_numpy(np.array(self._vectors))


def _blocks(count: int, what: str) -> Iterator[Rows]:
    for start in track(range(0, count, _BLOCK), what):
        yield np.arange(start, min(start + _BLOCK, count))


def _encode(anchor: Encoder, pixels: Tensor) -> npt.NDArray[np.float32]:
    return anchor.encode(pixels.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy())


Targets = CachedTargets | LiveTargets | StoredTargets
