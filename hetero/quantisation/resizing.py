"""Bilinear resizing of pixels with the very arithmetic of the runtimes, whose ties are otherwise not met.

An average of a few integers often lies exactly between two levels of the pixels' grid, and then the last bit
of a sum decides. So the sums are those of the kernels: float32 in ONNX Runtime, 11-bit weights in XNNPACK.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hetero.quantisation.scheme import Scheme, pixel_ends
from hetero_devices.space import Preprocessing

_BITS = 11  # of a weight in XNNPACK


@dataclass(frozen=True)
class Axis:
    """For every place of the result the two it lies between, int64 [R], and how far on, float32 [R]."""

    low: Tensor
    high: Tensor
    weight: Tensor

    @classmethod
    def of(cls, size: int, resolution: int, device: torch.device) -> Axis:
        """Half-pixel centres, ends repeated."""
        places = torch.arange(resolution, dtype=torch.float32, device=device)
        exact = ((places + 0.5) / (resolution / size) - 0.5).clamp(0, size - 1)
        low = exact.long().clamp(max=size - 1)
        return cls(low, (low + 1).clamp(max=size - 1), exact - low)


class QuantisedResize(nn.Module):
    """float32 [N, 3, S, S] normalised -> [N, 3, R, R] on the grid of pixels, as the artefact computes it.

    While ranges are measured nothing is rounded.
    """

    measuring: bool

    def __init__(self, resolution: int, scheme: Scheme, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.resolution, self.scheme, self.ends = resolution, scheme, pixel_ends(preprocessing)
        self.measuring = False

    def exact(self, x: Tensor) -> Tensor:
        """The same without rounding."""
        return _in_floats(x, Axis.of(x.shape[-1], self.resolution, x.device))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if self.measuring:
            return self.exact(x)
        low, high = torch.tensor(self.ends, device=x.device)
        scale, zero = self.scheme.activation_grid(low, high)
        if self.scheme.integer_front:
            axis = Axis.of(x.shape[-1], self.resolution, x.device)
            return _in_integers((x / scale).round().to(torch.int32), axis) * scale
        levels = (self.exact(x) / scale).round() + zero
        return (levels.clamp(self.scheme.lowest, self.scheme.highest) - zero) * scale


def _in_floats(x: Tensor, axis: Axis) -> Tensor:
    """ONNX Runtime's order of products and sums."""
    far, near = axis.weight, 1 - axis.weight
    down, up = far[:, None], near[:, None]
    top, bottom = x[..., axis.low, :], x[..., axis.high, :]
    a, b = near * up * top[..., axis.low], far * up * top[..., axis.high]
    c, d = near * down * bottom[..., axis.low], far * down * bottom[..., axis.high]
    return a + b + c + d


def _in_integers(x: Tensor, axis: Axis) -> Tensor:
    """XNNPACK's fixed point, ties up: int32 levels -> int32 levels."""
    weight = (axis.weight * 2**_BITS).round().to(torch.int32)
    rows = (x[..., axis.low, :] << _BITS) + (x[..., axis.high, :] - x[..., axis.low, :]) * weight[:, None]
    sums = (rows[..., axis.low] << _BITS) + (rows[..., axis.high] - rows[..., axis.low]) * weight
    rounded: Tensor = (sums + (1 << (2 * _BITS - 1))) >> (2 * _BITS)
    return rounded
