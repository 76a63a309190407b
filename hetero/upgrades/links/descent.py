"""Fitting a map by gradient descent: the one small loop that links share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from hetero.config import Config
from hetero.progress import track
from hetero_devices.errors import ModelError


class DescentConfig(Config):
    """Adam with a cosine schedule over batches of pairs drawn anew each epoch."""

    steps: int = Field(default=2000, gt=0)
    batch: int = Field(default=256, gt=1)
    rate: float = Field(default=1e-3, gt=0)


def descend(
    module: nn.Module, loss: Callable[[Tensor], Tensor], count: int, config: DescentConfig, seed: int
) -> None:
    """Minimise `loss(rows)`, rows int64 [B] below `count`, over the parameters of `module`, in place.

    A function of the seed alone. Raises ModelError when the loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=config.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    order = torch.empty(0, dtype=torch.int64)
    for step in track(range(config.steps), "fit link"):
        if len(order) < min(config.batch, count):
            order = torch.randperm(count, generator=generator)
        rows, order = order[: config.batch], order[config.batch :]
        value = loss(rows)
        if not math.isfinite(float(value.detach())):
            raise ModelError(f"the link's loss is not finite at step {step}: lower descent.rate")
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    module.requires_grad_(False)
    module.zero_grad(set_to_none=True)


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """A module whose random initial weights depend on the seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
