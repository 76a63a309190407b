"""Layers worded so that ONNX and LiteRT exports fuse, quantise and delegate them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "relu6", "hswish", "leaky_relu"]


class HardSwish(nn.Module):
    """x * relu6(x + 3) / 6, in an order that stays ADD + MUL + MUL in LiteRT.

    The fused HARD_SWISH operator has no int8 kernel in XNNPACK and would leave the delegate.
    """

    def forward(self, x: Tensor) -> Tensor:
        return (x * (1 / 6)) * F.relu6(x + 3.0)


class UnitNorm(nn.Module):
    """float32 [N, D] -> unit length along D.

    A module of its own: its tensors carry its name, so that quantisers can leave it in float.
    Written without F.normalize, whose Expand node breaks ONNX shape inference before quantisation.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).sum(1, keepdim=True) + 1e-12)


class SqueezeExcite(nn.Module):
    """Channel gating by globally pooled features (Hu et al., 2018), with a hard sigmoid as in MobileNetV3."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(8, channels // reduction), 1)
        self.expand = nn.Conv2d(max(8, channels // reduction), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * (F.relu6(gate + 3.0) * (1 / 6))


def eights(channels: float) -> int:
    """To a multiple of 8, at least 8: what SIMD kernels like."""
    return max(8, round(channels / 8) * 8)


class Resize(nn.Module):
    """float32 [N, 3, S, S] -> [N, 3, R, R], bilinear between pixel centres.

    Below half of S pixels are skipped: no low-pass filter, for neither runtime has one.
    """

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, (self.resolution, self.resolution), mode="bilinear", align_corners=False)


def activation(name: Activation) -> nn.Module:
    """A fresh activation module."""
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "relu6":
            return nn.ReLU6(inplace=True)
        case "hswish":
            return HardSwish()
        case "leaky_relu":
            return nn.LeakyReLU(0.2, inplace=True)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution with 'same' padding for odd kernels, then batch normalisation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class PooledNet(nn.Module):
    """float32 [N, 3, S, S] -> float32 [N, dim], not normalised: blocks, mean over the map, a linear layer.

    width: channels after the blocks. resolution: that the blocks see, None for that of the images.
    """

    def __init__(self, blocks: Sequence[nn.Module], width: int, dim: int, resolution: int | None) -> None:
        super().__init__()
        self.resize = None if resolution is None else Resize(resolution)
        self.features = nn.Sequential(*blocks)
        self.embed = nn.Linear(width, dim)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.resize is None else self.resize(x)
        pooled = self.features(x).mean((2, 3))  # AdaptiveAvgPool leaves shape nodes in ONNX
        embedding: Tensor = self.embed(pooled)
        return embedding


def _initialise(network: nn.Module) -> None:
    """He initialisation of convolutions (fan out), as the residual and mobile families are trained."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
