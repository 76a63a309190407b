"""Linear maps between spaces, in double precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def centred(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """float [N, D] -> (vectors less their mean, the mean [D]), in float64."""
    wide = vectors.double()
    mean = wide.mean(0)
    return wide - mean, mean


def linear(weight: Tensor, source_mean: Tensor, target_mean: Tensor) -> nn.Linear:
    """x -> (x - source mean) W + target mean as a layer: weight float64 [Ds, Dt], means [Ds], [Dt]."""
    layer = nn.Linear(*weight.shape)
    with torch.no_grad():
        layer.weight.copy_(weight.T)
        layer.bias.copy_(target_mean - source_mean @ weight)
    return layer.requires_grad_(False)
