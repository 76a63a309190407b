"""What is trained on: images, optionally with their quarter turns as further classes."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hetero.data.imageset import ImageSet

_TURNS = 4


class TrainingItems:
    """Item i is image i % N turned by i // N quarter turns; its class is (class, turn).

    Turned characters as classes of their own are the usual enlargement of Omniglot (Santoro et al., 2016).
    """

    def __init__(self, images: ImageSet, rotations: bool = False) -> None:
        self.images = images
        self.turns = _TURNS if rotations else 1
        self._known, self._labels = np.unique(images.labels, return_inverse=True)
        self.image_classes = len(self._known)

    def __len__(self) -> int:
        return len(self.images) * self.turns

    @property
    def classes(self) -> int:
        return self.image_classes * self.turns

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a class, in order; a turned class is called after its quarter turns."""
        names = [self.images.class_names[label] for label in self._known]
        return tuple(
            name if turn == 0 else f"{name} turned {turn}" for turn in range(self.turns) for name in names
        )

    @property
    def size(self) -> int:
        return int(self.images.images.shape[1])

    @cached_property
    def _pixels(self) -> Tensor:
        """uint8 [N, 3, S, S]; a training set is read over and over, so it is kept in memory."""
        return torch.from_numpy(np.array(self.images.images)).permute(0, 3, 1, 2).contiguous()

    def labels(self, items: npt.NDArray[np.int64]) -> Tensor:
        """int64 [B] -> int64 [B] in 0..classes-1."""
        turn, image = np.divmod(items, len(self.images))
        return torch.from_numpy(self._labels[image] + turn * self.image_classes)

    def pixels(self, items: npt.NDArray[np.int64]) -> Tensor:
        """int64 [B] -> float32 [B, 3, S, S], 0..255."""
        turn, image = np.divmod(items, len(self.images))
        batch = self._pixels[torch.from_numpy(image)].float()
        for k in range(1, self.turns):
            rows = torch.from_numpy(np.flatnonzero(turn == k))
            if len(rows):
                batch[rows] = batch[rows].rot90(k, (2, 3))
        return batch
