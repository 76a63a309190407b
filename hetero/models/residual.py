"""The anchor we train ourselves: a residual network (He et al., 2016) sized for small images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from hetero.models.family import FamilyConfig
from hetero.models.layers import Activation, PooledNet, activation, conv_bn


class ResidualConfig(FamilyConfig):
    """`depths[i]` basic blocks of `widths[i]` channels; each stage but the first halves the resolution."""

    kind: Literal["residual"] = "residual"
    widths: tuple[int, ...] = Field(default=(32, 64, 128, 256), min_length=1)
    depths: tuple[int, ...] = Field(default=(1, 1, 1, 1), min_length=1)
    stem_stride: Literal[1, 2] = 1
    activation: Activation = "relu"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: Activation) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(inputs, outputs, 3, stride), activation(act), conv_bn(outputs, outputs, 3)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)
        self.activation = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return y


class ResidualNet(PooledNet):
    """float32 [N, 3, S, S] -> float32 [N, dim], not normalised."""

    def __init__(self, config: ResidualConfig) -> None:
        width, act = config.widths[0], config.activation
        blocks: list[nn.Module] = [conv_bn(3, width, 3, config.stem_stride), activation(act)]
        for number, (outputs, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for index in range(depth):
                stride = 2 if number > 0 and index == 0 else 1
                blocks.append(BasicBlock(width, outputs, stride, act))
                width = outputs
        super().__init__(blocks, width, config.dim, config.resolution)


PRESETS: dict[str, ResidualConfig] = {
    "residual-s": ResidualConfig(widths=(32, 64, 128), depths=(1, 1, 1), stem_stride=2),
    "residual-m": ResidualConfig(),
    "residual-l": ResidualConfig(widths=(48, 96, 192, 384), depths=(2, 2, 2, 2)),
}
