"""Batched augmentation: parameters are drawn apart from being applied, so that a view can be replayed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hetero.config import Config

_PARAMETERS = 8  # rotation, log-scale, aspect, shear, shift x, shift y, contrast/brightness, flip


class AugmentConfig(Config):
    """Ranges, drawn uniformly and symmetrically around 'no change'. All zero: the identity."""

    rotation: float = Field(default=12.0, ge=0, description="degrees")
    scale: float = Field(default=0.15, ge=0, lt=1, description="relative")
    aspect: float = Field(default=0.1, ge=0, lt=1, description="relative")
    shear: float = Field(default=0.15, ge=0, description="tangent")
    shift: float = Field(default=0.08, ge=0, lt=1, description="share of the image size")
    contrast: float = Field(default=0.2, ge=0, lt=1, description="relative")
    flip: bool = Field(default=False, description="mirror left-right with probability 1/2")


def draw(count: int, generator: torch.Generator) -> Tensor:
    """float32 [count, 8] in [-1, 1): what `apply` turns into one change per image."""
    return torch.rand(count, _PARAMETERS, generator=generator) * 2 - 1


def apply(pixels: Tensor, parameters: Tensor, config: AugmentConfig) -> Tensor:
    """float32 [N, C, S, S] in 0..255 -> the same, changed; values are whole numbers, as camera bytes are.

    Whole numbers make a view the same for a torch anchor and for an ONNX anchor that takes bytes.
    """
    grid = F.affine_grid(_affine(parameters, config), list(pixels.shape), align_corners=False)
    warped = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    gain = 1 + config.contrast * parameters[:, 6].view(-1, 1, 1, 1)
    return ((warped - 127.5) * gain + 127.5).round_().clamp_(0, 255)


def _affine(parameters: Tensor, config: AugmentConfig) -> Tensor:
    """[N, 8] -> [N, 2, 3], output coordinates to input coordinates."""
    angle = parameters[:, 0] * math.radians(config.rotation)
    scale = torch.exp(parameters[:, 1] * math.log1p(config.scale))
    aspect = torch.exp(parameters[:, 2] * math.log1p(config.aspect) / 2)
    shear = parameters[:, 3] * config.shear
    mirror = torch.where(parameters[:, 7] < 0, -1.0, 1.0) if config.flip else torch.ones_like(angle)
    cos, sin = torch.cos(angle), torch.sin(angle)
    row_x = torch.stack([mirror * cos * scale * aspect, (cos * shear - sin) * scale], 1)
    row_y = torch.stack([mirror * sin * scale, (sin * shear + cos) * scale / aspect], 1)
    shift = parameters[:, 4:6] * (2 * config.shift)  # the grid spans [-1, 1]
    return torch.cat([torch.stack([row_x, row_y], 1), shift.unsqueeze(2)], 2)
