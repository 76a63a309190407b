"""Batches as a function of the step alone, so that a resumed run sees what an uninterrupted one sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hetero.data import augment
from hetero.data.augment import AugmentConfig
from hetero.objectives.terms import Supervision
from hetero.training.items import TrainingItems
from hetero.training.views import CachedTargets, LiveTargets, Targets


@dataclass(frozen=True)
class Batch:
    """pixels: float32 [B, 3, S, S], 0..255; supervision: labels and, with an anchor, its embeddings."""

    pixels: Tensor
    supervision: Supervision


class Batches:
    """`batches(step)`: every item once an epoch, in an order drawn from (seed, epoch)."""

    def __init__(
        self,
        items: TrainingItems,
        config: AugmentConfig,
        size: int,
        seed: int,
        targets: Targets | None = None,
    ) -> None:
        self.items, self.config, self.seed, self.target_source = items, config, seed, targets
        self.size = min(size, len(items))
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def __call__(self, step: int) -> Batch:
        epoch, rows = self._rows(step)
        pixels, targets = self._inputs(rows, step, epoch)
        return Batch(pixels, Supervision(self.items.labels(rows), targets, torch.from_numpy(rows)))

    def _rows(self, step: int) -> tuple[int, npt.NDArray[np.int64]]:
        per_epoch = len(self.items) // self.size
        epoch, index = divmod(step, per_epoch)
        return epoch, self._order(epoch)[index * self.size : (index + 1) * self.size]

    def _inputs(self, rows: npt.NDArray[np.int64], step: int, epoch: int) -> tuple[Tensor, Tensor | None]:
        source = self.target_source
        if isinstance(source, CachedTargets):
            view = epoch % source.views.count
            return source.views.pixels(rows, view), source.targets(rows, view)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        parameters = augment.draw(len(rows), generator)
        pixels = augment.apply(self.items.pixels(rows), parameters, self.config)
        if isinstance(source, LiveTargets):
            return pixels, source.embed(pixels)
        return pixels, source.targets(rows, 0) if source else None

    def _draw_order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.items))
