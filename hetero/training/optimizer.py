"""Optimiser, schedule and weight averaging."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hetero.config import Config


class FitConfig(Config):
    """One training: how long, how fast, how precise."""

    steps: int = Field(default=2000, gt=0)
    batch: int = Field(default=128, gt=1)
    rate: float = Field(default=2e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(default=0.02, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps with a rising rate")
    clip: float = Field(default=5.0, gt=0, description="largest gradient norm")
    ema: float = Field(default=0.995, ge=0, lt=1, description="decay of the averaged weights that are kept")
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = Field(default="cpu", description="a torch device: cpu, cuda, cuda:1")
    checkpoint_every: int = Field(default=200, gt=0, description="steps")
    log_every: int = Field(default=20, gt=0, description="steps")


def optimizer_of(modules: Iterable[nn.Module], config: FitConfig) -> torch.optim.AdamW:
    """AdamW with decay on matrices and filters only, never on biases or normalisation."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.rate, foreach=True)


def rate_at(step: int, config: FitConfig) -> float:
    """Linear warm-up, then a cosine to zero; a function of the step alone, so nothing to restore."""
    warm = max(1, round(config.steps * config.warmup))
    if step < warm:
        return config.rate * (step + 1) / warm
    return config.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and batch-norm statistics, with a short memory at first."""

    def update(mean: Sequence[Tensor], current: Sequence[Tensor], seen: Tensor | int) -> None:
        keep = min(decay, (1 + float(seen)) / (10 + float(seen)))
        if mean[0].is_floating_point():
            torch._foreach_lerp_(list(mean), list(current), 1 - keep)
        else:  # the batch counter of batch normalisation
            torch._foreach_copy_(list(mean), list(current))

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)
