"""An elastic network as priced parts: stem, inverted residuals, head.

A part's key says everything that decides its cost on a device, so that equal keys cost the same in every
network. Fields are those the network really has: hidden channels, not the expansion they come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hetero.models.elastic import ElasticConfig
from hetero.models.layers import Activation, eights

Features = dict[str, float]
"""What a cost model is fitted on: multiply-accumulates (`..._macs`), elements read or written, counts."""


@dataclass(frozen=True)
class Stem:
    """From pixels to the first feature map: preprocessing, 3x3 convolution, activation.

    size: of the image. resized: to what size before the convolution, None where it stays as it is.
    """

    size: int
    width: int
    stride: int
    activation: Activation
    resized: int | None = None

    kind = "stem"

    @property
    def key(self) -> str:
        resized = "" if self.resized is None else f"-to{self.resized}"
        return f"stem-{self.size}{resized}-{self.width}-s{self.stride}-{self.activation}"

    @property
    def resolution(self) -> int:
        """Of the feature map it returns."""
        return strided(self.resized or self.size, self.stride)

    @property
    def features(self) -> Features:
        area = self.resolution**2
        resized = {} if self.resized is None else {"resized": 1, "resized_elements": 3 * self.resized**2}
        return {
            "constant": 1,
            **resized,
            "convolution_macs": 27 * self.width * area,
            "pixels": self.size**2,
            f"{self.activation}_elements": self.width * area,
        }


@dataclass(frozen=True)
class Residual:
    """`hetero.models.elastic.InvertedResidual` on a feature map of `resolution` x `resolution`."""

    inputs: int
    hidden: int
    outputs: int
    kernel: Literal[3, 5, 7]
    stride: int
    activation: Activation
    gated: bool
    resolution: int

    kind = "residual"

    @property
    def key(self) -> str:
        gate = "-se" if self.gated else ""
        shape = f"{self.inputs}-{self.hidden}-{self.outputs}-k{self.kernel}-s{self.stride}"
        return f"residual-{shape}-{self.activation}{gate}-r{self.resolution}"

    @property
    def identity(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.inputs == self.outputs

    @property
    def features(self) -> Features:
        before, after = self.resolution**2, strided(self.resolution, self.stride) ** 2
        inside = self.hidden * (before + after)
        squeezed = max(8, self.hidden // 4) if self.gated else 0
        ends = self.inputs * before + self.outputs * after * (2 if self.identity else 1)
        return {
            "constant": 1,
            "expand_macs": self.inputs * self.hidden * before,
            f"depthwise{self.kernel}_macs": self.hidden * self.kernel**2 * after,
            "project_macs": self.hidden * self.outputs * after,
            "gate_macs": 2 * self.hidden * squeezed,
            "gates": int(self.gated),
            "gated_elements": self.hidden * after if self.gated else 0,
            "elements": inside + ends,
            f"{self.activation}_elements": inside,
        }


@dataclass(frozen=True)
class Head:
    """From the last feature map to the embedding: 1x1 convolution, pooling, linear layers, unit norm.

    project: dimension of a second linear layer, None without one.
    """

    inputs: int
    width: int
    dim: int
    project: int | None
    activation: Activation
    resolution: int

    kind = "head"

    @property
    def key(self) -> str:
        project = f"-p{self.project}" if self.project else ""
        return f"head-{self.inputs}-{self.width}-{self.dim}{project}-{self.activation}-r{self.resolution}"

    @property
    def features(self) -> Features:
        area = self.resolution**2
        return {
            "constant": 1,
            "convolution_macs": self.inputs * self.width * area,
            "linear_macs": self.width * self.dim + self.dim * (self.project or 0),
            "elements": (self.inputs + self.width) * area,
            f"{self.activation}_elements": self.width * area,
        }


Part = Stem | Residual | Head


def parts(config: ElasticConfig, size: int) -> tuple[Part, ...]:
    """What the network consists of on images of `size` x `size`, in the order it computes."""
    act = config.activation
    stem = Stem(size, config.scaled(config.stem), config.stem_stride, act, config.resolution)
    width, resolution, blocks = stem.width, stem.resolution, list[Residual]()
    for stage in config.stages:
        for index in range(stage.depth):
            block = Residual(
                inputs=width,
                hidden=eights(width * stage.expansion),
                outputs=config.scaled(stage.width),
                kernel=stage.kernel,
                stride=stage.stride if index == 0 else 1,
                activation=act,
                gated=stage.squeeze_excite,
                resolution=resolution,
            )
            blocks.append(block)
            width, resolution = block.outputs, strided(resolution, block.stride)
    return (stem, *blocks, Head(width, config.head, config.dim, config.project, act, resolution))


def distinct(networks: Iterable[Iterable[Part]]) -> tuple[Part, ...]:
    """Every part once, by key."""
    found = {part.key: part for network in networks for part in network}
    return tuple(found[key] for key in sorted(found))


def macs(part: Part) -> int:
    """Multiply-accumulates of one image, as `hetero.models.cost` counts them."""
    return int(sum(value for name, value in part.features.items() if name.endswith("_macs")))


def strided(resolution: int, stride: int) -> int:
    """Extent after a 'same'-padded convolution of odd kernel."""
    return (resolution - 1) // stride + 1
