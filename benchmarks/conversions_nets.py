"""The networks of `conversions.py`: ours, timm's and torchvision's, all with random weights of one seed."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from hetero.data.imageset import Images
from hetero.models.build import build, preset
from hetero.models.foreign.adopt import adopt
from hetero.models.foreign.config import ForeignConfig
from hetero.models.foreign.source import open_model
from hetero.models.store import Model


@dataclass(frozen=True)
class Net:
    """source: a preset of ours with its activation (`preset/leaky_relu`), or as in `hetero export`.

    size: pixels, where the network does not take the benchmark's.
    """

    source: str
    size: int | None = None

    @property
    def needs(self) -> str | None:
        """The library to be installed for it."""
        if ":" not in self.source:
            return None
        return "timm" if self.source.startswith("timm:") else "torchvision"


NETS: dict[str, Net] = {
    "elastic-xs": Net("elastic-xs"),
    "elastic-s": Net("elastic-s"),
    "elastic-m": Net("elastic-m"),
    "elastic-l": Net("elastic-l"),
    "residual-s": Net("residual-s"),
    "residual-m": Net("residual-m"),
    "elastic-m, LeakyReLU": Net("elastic-m/leaky_relu"),
    "residual-s, LeakyReLU": Net("residual-s/leaky_relu"),
    "ResNet-18": Net("timm:resnet18"),
    "ResNet-50": Net("timm:resnet50"),
    "MobileNetV2": Net("timm:mobilenetv2_100"),
    "MobileNetV3-S": Net("timm:mobilenetv3_small_100"),
    "MobileNetV3-L": Net("timm:mobilenetv3_large_100"),
    "MobileNetV4-S": Net("timm:mobilenetv4_conv_small"),
    "EfficientNet-B0": Net("timm:efficientnet_b0"),
    "EfficientNet-Lite0": Net("timm:efficientnet_lite0"),
    "MobileOne-s0": Net("timm:mobileone_s0"),
    "RepVGG-A0": Net("timm:repvgg_a0"),
    "ShuffleNetV2-1.0": Net("torchvision.models:shufflenet_v2_x1_0"),
    "ConvNeXt-atto": Net("timm:convnext_atto"),
    "ConvNeXt-femto": Net("timm:convnext_femto"),
    "ViT-tiny/16": Net("timm:vit_tiny_patch16_224"),
    "MobileViT-xxs": Net("timm:mobilevit_xxs", size=128),  # patches of 2 on a map of size / 32
}


def make(net: Net, images: Images, size: int, seed: int) -> Model:
    """The network with random weights, its batch normalisation settled on `images`, uint8 [N, S, S, 3].

    Fresh running statistics would let activations fade or explode with depth, and embeddings coincide. Gains
    and biases are drawn as well: a fresh ResNet's last gains are zero, and LiteRT's converter then drops all
    of its residual branches, which gives a far smaller file that is right for these weights alone.
    """
    if net.needs is None:
        name, _, activation = net.source.partition("/")
        config = preset(name)
        torch.manual_seed(seed)
        network = build(config.model_copy(update={"activation": activation}) if activation else config)
        model = adopt(network, torch.zeros(2, 3, size, size))
    else:
        model = open_model(ForeignConfig(source=net.source, weights="random", size=size), seed)
    deploy = copy.deepcopy(model.deploy).eval()
    _draw_gains(deploy, torch.Generator().manual_seed(seed))
    _settle(deploy, images)
    return Model(deploy, model.config, model.space)


def _draw_gains(network: nn.Module, generator: torch.Generator) -> None:
    """Gains of norms and layer scales around 1, biases around 0; matrices and kernels stay as they are."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            drawn = torch.rand(parameter.shape, generator=generator) - 0.5
            parameter.data = drawn * 0.2 if name.endswith("bias") else 1 + drawn


def _settle(deploy: nn.Module, images: Images) -> None:
    """Batch normalisation's running statistics from `images`, averaged over all."""
    norms = [module for module in deploy.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain average
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        deploy(torch.from_numpy(images))
    deploy.eval()
