"""A model's own mean and standard deviation of pixels, inside the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetero_devices.errors import ModelError
from hetero_devices.space import Preprocessing


class ChannelAffine(nn.Module):
    """Pixels scaled to (x - 127.5) / 127.5 -> (x / 255 - mean) / std by channel, float32 [N, 3, S, S].

    A 1x1 convolution rather than a multiplication by a 3-vector: every runtime has it in integers with a
    scale for each channel. It cannot be folded into the first layer, whose zero padding stands for the mean.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means, deviations = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.register_buffer("weight", torch.diag(0.5 / deviations).float()[:, :, None, None])
        self.register_buffer("bias", ((0.5 - means) / deviations).float())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


def scaling(size: int, mean: Sequence[float], std: Sequence[float]) -> tuple[Preprocessing, nn.Module | None]:
    """Preprocessing and, where channels differ, the module to put before the network.

    mean, std: of RGB in 0..1. Raises ModelError unless they are three finite numbers, std positive.
    """
    _check(mean, std)
    if len(set(mean)) == len(set(std)) == 1:
        return Preprocessing(size=size, offset=255 * mean[0], scale=255 * std[0]), None
    return Preprocessing(size=size), ChannelAffine(mean, std)


def _check(mean: Sequence[float], std: Sequence[float]) -> None:
    finite = torch.isfinite(torch.tensor([*mean, *std])).all()
    if len(mean) != 3 or len(std) != 3 or not finite or min(std) <= 0:
        raise ModelError(
            f"mean {list(mean)} and std {list(std)} cannot scale pixels: "
            "give three numbers each for RGB in 0..1"
        )
