"""Batches as a function of the step alone, so that a resumed run sees what an uninterrupted one sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hetero.data import augment
from hetero.data.augment import AugmentConfig
from hetero.objectives.terms import Supervision
from hetero.training.items import TrainingItems
from hetero.training.views import CachedTargets, LiveTargets, Rows, Targets


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
        pixels, views = self._pixels(rows, step, epoch)
        sources = [] if self.target_source is None else [self.target_source, *self.others]
        targets = [_targets(source, rows, views, pixels) for source in sources]
        first = targets[0] if targets else None
        supervision = Supervision(
            self.items.labels(rows), first, torch.from_numpy(rows), others=tuple(targets[1:])
        )
        return Batch(pixels, supervision)

    def _rows(self, step: int) -> tuple[int, Rows]:
        per_epoch = len(self.items) // self.size
        epoch, index = divmod(step, per_epoch)
        return epoch, self._order(epoch)[index * self.size : (index + 1) * self.size]

    def _pixels(self, rows: Rows, step: int, epoch: int) -> tuple[Tensor, Rows]:
        """The views of a batch, and which of the cached ones they are."""
        source = self.target_source
        if isinstance(source, CachedTargets):
            views = source.views.shown(rows, epoch)
            return source.views.pixels(rows, views), views
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        parameters = augment.draw(len(rows), generator)
        return augment.apply(self.items.pixels(rows), parameters, self.config), np.zeros_like(rows)

    def _draw_order(self, epoch: int) -> Rows:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.items))


def _targets(source: Targets, rows: Rows, views: Rows, pixels: Tensor) -> Tensor:
    return source.embed(pixels) if isinstance(source, LiveTargets) else source.targets(rows, views)
