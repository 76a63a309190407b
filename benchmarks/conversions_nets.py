"""The networks of `conversions.py`: ours, timm's and torchvision's, briefly trained on generated glyphs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from hetero.data.augment import AugmentConfig
from hetero.data.imageset import Images, ImageSet
from hetero.models.build import build, preset
from hetero.models.deploy import Deploy
from hetero.models.foreign.adopt import adopt
from hetero.models.foreign.config import ForeignConfig
from hetero.models.foreign.source import open_model
from hetero.models.store import Model, define_space
from hetero.objectives.terms import Given, MarginSoftmaxConfig, Objective
from hetero.tensors import load_tensors, save_tensors
from hetero.training.batches import Batches
from hetero.training.items import TrainingItems
from hetero.training.loop import METRICS, Fit
from hetero.training.optimizer import FitConfig

BATCH = 32


@dataclass(frozen=True)
class Net:
    """source: a preset of ours with its activation (`preset/leaky_relu`), or as in `hetero export`.

    steps: as many of the training as fit into about a minute of one slow core. rate: of AdamW; 4e-3 stalls
    networks with layer norms. size: pixels, where the network does not take the benchmark's. fixed: whether
    it is trained at the size it is exported for, because a position embedding ties it to one.
    """

    source: str
    steps: int = 240
    rate: float = 4e-3
    size: int | None = None
    fixed: bool = False

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
    "elastic-l": Net("elastic-l", steps=120),
    "residual-s": Net("residual-s"),
    "residual-m": Net("residual-m", steps=80),
    "elastic-m, LeakyReLU": Net("elastic-m/leaky_relu"),
    "residual-s, LeakyReLU": Net("residual-s/leaky_relu"),
    "ResNet-18": Net("timm:resnet18", steps=100),
    "ResNet-50": Net("timm:resnet50", steps=40),
    "MobileNetV2": Net("timm:mobilenetv2_100"),
    "MobileNetV3-S": Net("timm:mobilenetv3_small_100"),
    "MobileNetV3-L": Net("timm:mobilenetv3_large_100"),
    "MobileNetV4-S": Net("timm:mobilenetv4_conv_small"),
    "EfficientNet-B0": Net("timm:efficientnet_b0", steps=160),
    "EfficientNet-Lite0": Net("timm:efficientnet_lite0", steps=200),
    "MobileOne-s0": Net("timm:mobileone_s0", steps=100),
    "RepVGG-A0": Net("timm:repvgg_a0", steps=120),
    "ShuffleNetV2-1.0": Net("torchvision.models:shufflenet_v2_x1_0"),
    "ConvNeXt-atto": Net("timm:convnext_atto", steps=200, rate=1e-3),
    "ConvNeXt-femto": Net("timm:convnext_femto", steps=160, rate=1e-3),
    "ViT-tiny/16": Net("timm:vit_tiny_patch16_224", steps=80, rate=1e-3, fixed=True),
    "MobileViT-xxs": Net("timm:mobilevit_xxs", rate=1e-3, size=128),  # patches of 2 on a map of size / 32
}


def trained(
    net: Net, lessons: ImageSet, images: Images, seed: int, weights: Path
) -> tuple[Model, dict[str, float]]:
    """The network after its steps, and how training went; weights already at `weights` are loaded.

    lessons: training images, at whatever size is cheap; images: uint8 [N, S, S, 3] of the size it is
    exported for, on which batch normalisation settles.
    """
    model = fresh(net, int(images.shape[1]), seed)
    if weights.is_file():
        tensors, metadata = load_tensors(weights)
        model.deploy.network.load_state_dict(tensors)
        about = {name: float(value) for name, value in metadata.items()}
    else:
        began = time.process_time()
        deploy, loss = _fit(model, net, lessons, seed)
        _settle(deploy, images)
        model = replace(model, deploy=deploy)
        about = {"steps": net.steps, "loss": loss, "seconds": time.process_time() - began}
        metadata = {name: str(value) for name, value in about.items()}
        save_tensors(weights, deploy.network.state_dict(), metadata)
    network, preprocessing = model.deploy.network, model.deploy.preprocessing
    return replace(model, space=define_space(network, preprocessing, model.space.dim)), about


def fresh(net: Net, size: int, seed: int) -> Model:
    """The network with random weights, none of its residual branches asleep."""
    if net.needs is None:
        name, _, activation = net.source.partition("/")
        config = preset(name)
        torch.manual_seed(seed)
        network = build(config.model_copy(update={"activation": activation}) if activation else config)
        model = adopt(network, torch.zeros(2, 3, size, size))
    else:
        model = open_model(ForeignConfig(source=net.source, weights="random", size=size), seed)
    _wake(model.deploy.network)
    return model


def _wake(network: nn.Module) -> None:
    """Set the gains that start at zero (or a layer scale's 1e-6) to a half, in place.

    A few steps would hardly move them, and LiteRT's converter drops branches that are multiplied by zero,
    which gives a far smaller file that is right for these weights alone.
    """
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and not name.endswith("bias") and bool((parameter.abs() < 1e-3).all()):
            nn.init.constant_(parameter, 0.5)


def _fit(model: Model, net: Net, lessons: ImageSet, seed: int) -> tuple[Deploy, float]:
    """Classification of the lessons' classes -> the averaged network and the last step's loss."""
    items = TrainingItems(lessons)
    given = Given(classes=items.classes, dim=model.space.dim, anchor=False, head=None)
    torch.manual_seed(seed)
    objective = Objective((MarginSoftmaxConfig(),), given)
    config = FitConfig(steps=net.steps, batch=BATCH, rate=net.rate, ema=0.9, checkpoint_every=net.steps + 1)
    batches = Batches(items, AugmentConfig(), BATCH, seed)
    with TemporaryDirectory() as folder:
        deploy = Fit(model.deploy.requires_grad_(), objective, config, Path(folder), seed).run(batches)
        last = json.loads((Path(folder) / METRICS).read_text().splitlines()[-1])
    deploy.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as when loaded
    return deploy.requires_grad_(False), float(last["0_margin_softmax"])


def _settle(deploy: Deploy, images: Images) -> None:
    """Batch normalisation's running statistics from `images`: a short training leaves them behind."""
    norms = [module for module in deploy.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain average
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        deploy(torch.from_numpy(images))
    deploy.eval()
