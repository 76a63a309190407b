"""What a runtime's int8 arithmetic does to a tensor: grids of weights, activations and pixels.

Both quantisers of `hetero_export` give weights a symmetric grid per output channel and activations an
asymmetric 8-bit grid per tensor that contains zero. They differ in the bits of a weight, in how pixels enter
and in what the converter folds; a `Scheme` holds those differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hetero_devices.runtimes import Format
from hetero_devices.space import Preprocessing

_LEVELS = 255  # of an activation


@dataclass(frozen=True)
class Scheme:
    """The int8 arithmetic of one format's artefact.

    weight_max: largest integer of a weight, the smallest is its negative; lowest: smallest integer of an
    activation; folds_offsets: a constant added to a layer's output becomes part of its bias, and the bias
    of a linear layer before another one part of the latter's; integer_front: pixels are normalised in
    integers (else in float); float_islands: operators without an integer form, and all after the last layer,
    compute in float (else everything is rounded).
    """

    format: Format
    weight_max: int
    lowest: int
    folds_offsets: bool
    integer_front: bool
    float_islands: bool

    @property
    def highest(self) -> int:
        return self.lowest + _LEVELS

    def weight_scale(self, weight: Tensor) -> Tensor:
        """float [O, ...] -> the step of each output channel's grid: float32 [O]."""
        largest = weight.detach().abs().flatten(1).amax(1)
        return torch.where(largest > 0, largest / self.weight_max, torch.ones_like(largest))

    def quantised_weight(self, weight: Tensor) -> Tensor:
        """float [O, ...] -> the same shape, rounded to the grid; gradients pass straight through.

        A weight that lies on its grid stays where it is, and gives the same grid again.
        """
        scale = self.weight_scale(weight)
        zeros = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(
            weight, scale, zeros, 0, -self.weight_max, self.weight_max
        )

    def quantised_bias(self, bias: Tensor, step: Tensor) -> Tensor:
        """float [O], the step of each sum -> rounded to 32-bit integers of those steps."""
        zeros = torch.zeros(len(step), dtype=torch.int32, device=bias.device)
        return torch.fake_quantize_per_channel_affine(bias, step, zeros, 0, -(2**31), 2**31 - 1)

    def activation_grid(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The range of a tensor, scalars -> step (float32) and zero point (int32) of a grid with zero."""
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = ((high - low) / _LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
        return scale, (self.lowest - low / scale).round().to(torch.int32)

    def quantised(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Float of any shape -> rounded to the grid of [low, high]; the gradient is zero outside of it."""
        scale, zero = self.activation_grid(low, high)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, self.lowest, self.highest)

    def pixel_step(self, preprocessing: Preprocessing) -> float:
        """Of the grid on which normalised pixels reach the first layer."""
        return float(self.activation_grid(*torch.tensor(pixel_ends(preprocessing)))[0])

    @torch.no_grad()
    def pixels(self, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
        """float32 0..255 of any shape -> normalised, as rounded by the artefact.

        Pixels lie exactly between two levels of the ranges pinned by the quantisers (-1..1 in 255 steps), so
        what counts is how ties are rounded: to even by ONNX Runtime's QuantizeLinear, up by XNNPACK's
        subtraction. torch's fake quantisation multiplies by the reciprocal of the step and would break them
        otherwise.
        """
        ends = torch.tensor([0.0, 255.0], device=pixels.device) - preprocessing.offset
        factor = 1 / preprocessing.scale
        if not self.integer_front:
            scale, zero = self.activation_grid(*(ends * factor))
            levels = ((pixels - preprocessing.offset) * factor / scale).round() + zero
            return (levels.clamp(self.lowest, self.highest) - zero) * scale
        scale, zero = self.activation_grid(*ends)
        levels = ((pixels - preprocessing.offset) / scale + 0.5).floor() + zero
        shifted = (levels.clamp(self.lowest, self.highest) - zero) * scale
        return self.quantised(shifted * factor, *(ends * factor))


def pixel_ends(preprocessing: Preprocessing) -> tuple[float, float]:
    """What black and white are after the normalisation: the range that normalised pixels have everywhere."""
    black, white = (torch.tensor([0.0, 255.0]) - preprocessing.offset) * (1 / preprocessing.scale)
    return float(black), float(white)


SCHEMES: dict[Format, Scheme] = {
    "onnx": Scheme(
        "onnx", weight_max=64, lowest=0, folds_offsets=False, integer_front=False, float_islands=True
    ),
    "tflite": Scheme(
        "tflite", weight_max=127, lowest=-128, folds_offsets=True, integer_front=True, float_islands=False
    ),
}
