"""The student: an elastic family of inverted residual networks (Sandler et al., 2018)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from hetero.config import Config
from hetero.models.family import FamilyConfig
from hetero.models.layers import Activation, PooledNet, SqueezeExcite, activation, conv_bn, eights


class Stage(Config):
    """`depth` blocks of equal width; the first one strides."""

    width: int = Field(gt=0)
    depth: int = Field(default=1, gt=0)
    stride: Literal[1, 2] = 1
    kernel: Literal[3, 5, 7] = 3
    expansion: float = Field(default=3.0, gt=0)
    squeeze_excite: bool = False


class ElasticConfig(FamilyConfig):
    """An architecture as data: what a search finds and a bundle records."""

    kind: Literal["elastic"] = "elastic"
    stem: int = Field(default=16, gt=0)
    stem_stride: Literal[1, 2] = 2
    stages: tuple[Stage, ...] = Field(
        default=(
            Stage(width=16, expansion=2),
            Stage(width=32, depth=2, stride=2),
            Stage(width=64, depth=3, stride=2),
        ),
        min_length=1,
    )
    head: int = Field(default=192, gt=0)
    activation: Activation = "relu6"
    width: float = Field(default=1.0, gt=0, description="multiplies every width")

    def scaled(self, channels: int) -> int:
        """`channels` times the width multiplier, see `eights`."""
        return eights(channels * self.width)


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise kxk, optional gate, 1x1 project; identity where the shape allows."""

    def __init__(self, inputs: int, stage: Stage, outputs: int, stride: int, act: Activation) -> None:
        super().__init__()
        hidden = eights(inputs * stage.expansion)
        self.identity = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            conv_bn(inputs, hidden, 1),
            activation(act),
            conv_bn(hidden, hidden, stage.kernel, stride, groups=hidden),
            activation(act),
            SqueezeExcite(hidden) if stage.squeeze_excite else nn.Identity(),
            conv_bn(hidden, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.identity else y


class ElasticNet(PooledNet):
    """float32 [N, 3, S, S] -> float32 [N, dim], not normalised."""

    def __init__(self, config: ElasticConfig) -> None:
        width, act = config.scaled(config.stem), config.activation
        blocks: list[nn.Module] = [conv_bn(3, width, 3, config.stem_stride), activation(act)]
        for stage in config.stages:
            for index in range(stage.depth):
                stride = stage.stride if index == 0 else 1
                blocks.append(InvertedResidual(width, stage, config.scaled(stage.width), stride, act))
                width = config.scaled(stage.width)
        blocks += [conv_bn(width, config.head, 1), activation(act)]
        super().__init__(blocks, config.head, config.dim, config.resolution)


PRESETS: dict[str, ElasticConfig] = {
    "elastic-xs": ElasticConfig(
        stem=8,
        stages=(
            Stage(width=8, expansion=2),
            Stage(width=16, depth=2, stride=2),
            Stage(width=32, depth=2, stride=2),
        ),
        head=128,
    ),
    "elastic-s": ElasticConfig(width=0.75, head=160),
    "elastic-m": ElasticConfig(),
    "elastic-l": ElasticConfig(
        stem=24,
        stages=(
            Stage(width=24, depth=2, expansion=2),
            Stage(width=40, depth=3, stride=2, kernel=5),
            Stage(width=80, depth=4, stride=2, expansion=4, squeeze_excite=True),
        ),
        head=384,
        activation="hswish",
    ),
}
