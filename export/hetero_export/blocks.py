"""Parts of elastic networks as models of their own, small enough to measure and large enough to be measured.

A device runs models from image to embedding, so a part stands between a carrier that brings an image to its
input (a 1x1 convolution) and one that brings its output to an embedding (the mean over the map). `COPIES` of
the part stand there, each with weights of its own, in a chain where the shape allows it and otherwise side
by side and summed: the time of such a model less that of its carrier alone, divided by the copies, is what
the part costs *inside* a network, without the fixed price of an inference. A stem stays alone and keeps that
price: it is the one part every network has once, and pixels belong to it.

Weights are random, with batch normalisation settled: the activations of an unsettled network grow from block
to block until their int8 scales leave what XNNPACK accepts, and other kernels run than in a trained one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hetero.models.build import Family, build
from hetero.models.deploy import Deploy
from hetero.models.elastic import InvertedResidual, Stage
from hetero.models.layers import Resize, activation, conv_bn
from hetero.recipes.recipe import MixedConfig
from hetero.search.blocks import Head, Part, Residual, Stem
from hetero_devices.bundle import Precision
from hetero_devices.runtimes import Format
from hetero_devices.space import Preprocessing
from hetero_export.calibration import Calibration
from hetero_export.formats import EXPORTERS, needs_calibration

COPIES = 4
"""So many that the difference to the carrier is clear, so few that converting stays quick."""


@dataclass(frozen=True)
class Probe:
    """A model to export and measure. name: a file name that says all of it; size: of its images."""

    name: str
    size: int
    content: Part | Family | int

    @classmethod
    def of(cls, part: Part) -> Probe:
        """The model whose time, less that of the carrier, is the part's."""
        if isinstance(part, Stem):
            return cls(part.key, part.size, part)
        return cls(f"{part.key}-x{COPIES}", part.resolution, part)

    @classmethod
    def carrier(cls, channels: int, resolution: int) -> Probe:
        """What stands around a part of that input, alone."""
        return cls(f"carrier-{channels}-r{resolution}", resolution, channels)

    @classmethod
    def whole(cls, config: Family, size: int) -> Probe:
        """A network of any family, as it is deployed."""
        digest = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
        return cls(f"network-{digest}-{size}", size, config)

    def network(self) -> nn.Module:
        """float32 [N, 3, size, size] -> float32 [N, D]; its weights are random, always the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _settled(_network(self.content), self.size)


def export(probe: Probe, format: Format, precision: Precision, folder: Path) -> Path:
    """The probe as a model file in `folder`; what is there already is not made again.

    Raises ModelError when it does not convert.
    """
    source, target = (folder / f"{probe.name}.{kind}.{format}" for kind in ("fp32", precision))
    if not source.is_file():
        deploy = Deploy(probe.network(), Preprocessing(size=probe.size)).eval()
        EXPORTERS[format].export(deploy, source, {"name": probe.name})
    if not target.is_file():
        calibration = Calibration(images(probe.size)) if needs_calibration([precision]) else None
        EXPORTERS[format].variants[precision].write(source, target, calibration, MixedConfig())
    return target


def images(size: int, count: int = 8) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Noise, uint8 [count, size, size, 3]: what an image shows changes no time."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


class _Carried(nn.Module):
    """Front, parts in a chain or side by side, mean over the map (a head has no map any more)."""

    def __init__(self, front: nn.Module, copies: Sequence[nn.Module], *, chain: bool = True) -> None:
        super().__init__()
        self.front = front
        self.copies = nn.ModuleList(copies)
        self.chain = chain

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x)
        y = self.copies[0](x) if self.copies else x
        for copy in self.copies[1:]:
            y = copy(y) if self.chain else y + copy(x)
        return y.mean((2, 3)) if y.ndim == 4 else y


class _Head(nn.Module):
    """The end of `ElasticNet`: float32 [N, inputs, R, R] -> float32 [N, dim or project]."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn(head.inputs, head.width, 1), activation(head.activation))
        self.embed = nn.Linear(head.width, head.dim)
        self.project = nn.Linear(head.dim, head.project) if head.project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.project(self.embed(self.features(x).mean((2, 3))))
        return embedding


def _network(content: Part | Family | int) -> nn.Module:
    match content:
        case int():
            return _Carried(conv_bn(3, content, 1), [])
        case Stem() as stem:
            layers = [conv_bn(3, stem.width, 3, stem.stride), activation(stem.activation)]
            if stem.resized is not None:
                layers.insert(0, Resize(stem.resized))
            return _Carried(nn.Sequential(*layers), [])
        case Residual() | Head() as part:
            chain = isinstance(part, Residual) and part.identity
            return _Carried(conv_bn(3, part.inputs, 1), [_module(part) for _ in range(COPIES)], chain=chain)
        case config:
            return build(config)


def _settled(network: nn.Module, size: int) -> nn.Module:
    """The network with the statistics of its batch normalisations taken on noise; in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.from_numpy(images(size)).permute(0, 3, 1, 2) / 127.5 - 1)
    return network.eval()


def _module(part: Residual | Head) -> nn.Module:
    if isinstance(part, Head):
        return _Head(part)
    stage = Stage(
        width=part.outputs,
        kernel=part.kernel,
        expansion=part.hidden / part.inputs,
        squeeze_excite=part.gated,
    )
    return InvertedResidual(part.inputs, stage, part.outputs, part.stride, part.activation)
