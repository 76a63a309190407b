"""A small ShuffleNetV2 family (Ma et al., ECCV 2018) whose blocks choose an operator (Guo et al., ECCV 2020).

Half of a block's channels pass by it, half are worked on; the two are interleaved, so that half of either is
worked on by the next block. Slices, a concatenation, two reshapes and a transpose do it: LiteRT runs all of
them in one XNNPACK partition, in float and in int8.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hetero.config import Config
from hetero.models.family import FamilyConfig
from hetero.models.layers import Activation, PooledNet, activation, conv_bn, eights

Operator = Literal["shuffle3", "shuffle5", "shuffle7", "xception"]


class ShuffleStage(Config):
    """One block for every operator, all of equal width; the first one strides.

    hidden: channels inside a block, as a multiple of half the width.
    """

    width: int = Field(gt=0)
    operators: tuple[Operator, ...] = Field(default=("shuffle3",), min_length=1)
    hidden: float = Field(default=1.0, gt=0)
    stride: Literal[1, 2] = 2


class ShuffleConfig(FamilyConfig):
    """An architecture as data: what a search finds and a bundle records."""

    kind: Literal["shuffle"] = "shuffle"
    stem: int = Field(default=16, gt=0)
    stem_stride: Literal[1, 2] = 2
    stages: tuple[ShuffleStage, ...] = Field(
        default=(
            ShuffleStage(width=32, operators=("shuffle3",) * 2, stride=1),
            ShuffleStage(width=64, operators=("shuffle3",) * 4),
            ShuffleStage(width=128, operators=("shuffle3",) * 4),
        ),
        min_length=1,
    )
    head: int = Field(default=192, gt=0)
    activation: Activation = "relu"
    width: float = Field(default=1.0, gt=0, description="multiplies every width")

    def scaled(self, channels: int) -> int:
        """`channels` times the width multiplier, see `eights`."""
        return eights(channels * self.width)


class ShuffleBlock(nn.Module):
    """float32 [N, inputs, S, S] -> [N, outputs, S / stride, S / stride], half of it by `body`.

    opens: the first block of a stage, whose two halves are both computed from the whole input.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        operator: Operator,
        hidden: float,
        stride: int,
        act: Activation,
        opens: bool,
    ) -> None:
        super().__init__()
        self.each = outputs // 2
        self.shortcut = nn.Sequential(*_shortcut(inputs, self.each, stride, act)) if opens else None
        into, inner = (inputs if opens else self.each), eights(self.each * hidden)
        make = _xception if operator == "xception" else _inverted
        self.body = make(into, inner, self.each, operator, stride, act)

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut is None:
            return interleave(x[:, : self.each], self.body(x[:, self.each :]))
        return interleave(self.shortcut(x), self.body(x))


def interleave(a: Tensor, b: Tensor) -> Tensor:
    """[N, C, S, S] twice -> [N, 2 C, S, S]: the channels of a at even places, those of b at odd ones."""
    _, channels, height, width = a.shape
    pairs = torch.cat((a, b), 1).reshape(-1, 2, channels, height, width).transpose(1, 2)
    return pairs.reshape(-1, 2 * channels, height, width)  # -1: the batch stays free in ONNX


class ShuffleNet(PooledNet):
    """float32 [N, 3, S, S] -> float32 [N, dim], not normalised."""

    def __init__(self, config: ShuffleConfig) -> None:
        width, act = config.scaled(config.stem), config.activation
        blocks: list[nn.Module] = [conv_bn(3, width, 3, config.stem_stride), activation(act)]
        for stage in config.stages:
            outputs = config.scaled(stage.width)
            for index, operator in enumerate(stage.operators):
                opens, stride = index == 0, stage.stride if index == 0 else 1
                blocks.append(ShuffleBlock(width, outputs, operator, stage.hidden, stride, act, opens))
                width = outputs
        blocks += [conv_bn(width, config.head, 1), activation(act)]
        super().__init__(blocks, config.head, config.dim, config.resolution)


def _shortcut(inputs: int, outputs: int, stride: int, act: Activation) -> tuple[nn.Module, ...]:
    depthwise = conv_bn(inputs, inputs, 3, stride, groups=inputs)
    return depthwise, conv_bn(inputs, outputs, 1), activation(act)


def _inverted(
    inputs: int, hidden: int, outputs: int, operator: Operator, stride: int, act: Activation
) -> nn.Sequential:
    """1x1, depthwise kxk, 1x1; the operator's last letter is k."""
    return nn.Sequential(
        conv_bn(inputs, hidden, 1),
        activation(act),
        conv_bn(hidden, hidden, int(operator[-1]), stride, groups=hidden),
        conv_bn(hidden, outputs, 1),
        activation(act),
    )


def _xception(
    inputs: int, hidden: int, outputs: int, operator: Operator, stride: int, act: Activation
) -> nn.Sequential:
    """Three times depthwise 3x3 and 1x1 (Chollet, CVPR 2017)."""
    widths, layers = (inputs, hidden, hidden, outputs), list[nn.Module]()
    for index in range(3):
        before, after = widths[index], widths[index + 1]
        layers += [
            conv_bn(before, before, 3, stride if index == 0 else 1, groups=before),
            conv_bn(before, after, 1),
            activation(act),
        ]
    return nn.Sequential(*layers)


PRESETS: dict[str, ShuffleConfig] = {
    "shuffle-s": ShuffleConfig(width=0.75, head=160),
    "shuffle-m": ShuffleConfig(),
}
