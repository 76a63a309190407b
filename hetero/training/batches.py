"""Batches as a function of the step alone, so that a resumed run sees what an uninterrupted one sees."""

from __future__ import annotations

from collections.abc import Sequence
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
        others: Sequence[Targets] = (),
    ) -> None:
        self.items, self.config, self.seed, self.target_source = items, config, seed, targets
        self.others = tuple(others)
        self.size = min(size, len(items))
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def __call__(self, step: int) -> Batch:
        epoch, rows = self._rows(step)
        pixels, view = self._pixels(rows, step, epoch)
        sources = [] if self.target_source is None else [self.target_source, *self.others]
        targets = [_targets(source, rows, view, pixels) for source in sources]
        first = targets[0] if targets else None
        supervision = Supervision(
            self.items.labels(rows), first, torch.from_numpy(rows), others=tuple(targets[1:])
        )
        return Batch(pixels, supervision)

    def _rows(self, step: int) -> tuple[int, npt.NDArray[np.int64]]:
        per_epoch = len(self.items) // self.size
        epoch, index = divmod(step, per_epoch)
        return epoch, self._order(epoch)[index * self.size : (index + 1) * self.size]

    def _pixels(self, rows: npt.NDArray[np.int64], step: int, epoch: int) -> tuple[Tensor, int]:
        """The views of a batch, and which of the cached ones they are."""
        source = self.target_source
        if isinstance(source, CachedTargets):
            view = epoch % source.views.count
            return source.views.pixels(rows, view), view
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        parameters = augment.draw(len(rows), generator)
        return augment.apply(self.items.pixels(rows), parameters, self.config), 0

    def _draw_order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.items))


def _targets(source: Targets, rows: npt.NDArray[np.int64], view: int, pixels: Tensor) -> Tensor:
    return source.embed(pixels) if isinstance(source, LiveTargets) else source.targets(rows, view)
