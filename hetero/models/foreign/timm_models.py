"""Backbones of timm by name (Wightman, 2019), without their classifier or with a new head."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import nn

from hetero.models.family import FamilyConfig
from hetero.models.foreign.config import Channels
from hetero.models.foreign.scaling import ChannelAffine
from hetero.models.foreign.torchvision_shim import make_importable
from hetero.models.layers import Resize
from hetero_devices.errors import ModelError, require


class TimmConfig(FamilyConfig):
    """A timm network with a linear head of `dim` outputs, as student or anchor of a recipe."""

    kind: Literal["timm"] = "timm"
    name: str = Field(description="as in timm.list_models()")
    weights: str = Field(
        default="random", description="random, pretrained (downloaded once), or a .safetensors file"
    )
    size: int | None = Field(default=None, ge=8, description="side of the images, where it is fixed (ViT)")


@dataclass(frozen=True)
class Backbone:
    """A network that wants pixels scaled by `mean` and `std` (of RGB in 0..1) and `size` pixels a side."""

    network: nn.Module
    size: int
    mean: Channels
    std: Channels


def backbone(name: str, weights: str = "pretrained", size: int | None = None, dim: int = 0) -> Backbone:
    """The named network; dim: outputs of a new linear head, 0 for none: the pooled features.

    weights: `pretrained`, `random` (by torch's present seed) or the path of a .safetensors file.
    Raises MissingExtra without timm, ModelError for an unknown name, unusable weights or an impossible size.
    """
    make_importable()
    timm = require("timm", "timm")
    if not timm.is_model(name.partition(".")[0]):
        near = get_close_matches(name, timm.list_models(), n=1, cutoff=0)
        raise ModelError(f"timm has no model {name!r}; the nearest is {near[0]!r}")
    network = _create(timm, name, dim, size, _weights(weights))
    cfg: Any = network.pretrained_cfg
    return Backbone(network, size or cfg["input_size"][1], tuple(cfg["mean"]), tuple(cfg["std"]))


def network(config: TimmConfig, *, weights: bool = True) -> nn.Module:
    """Pixels in -1..1, float32 [N, 3, S, S] -> float32 [N, config.dim].

    weights: False leaves them random, whatever the config asks for.
    """
    made = backbone(config.name, config.weights if weights else "random", config.size, config.dim)
    before: list[nn.Module] = []
    if config.resolution is not None:
        before.append(Resize(config.resolution))
    if {*made.mean, *made.std} != {0.5}:
        before.append(ChannelAffine(made.mean, made.std))
    return nn.Sequential(*before, made.network) if before else made.network


def _weights(weights: str) -> dict[str, Any]:
    """timm's arguments for where weights come from."""
    if weights in ("pretrained", "random"):
        return {"pretrained": weights == "pretrained"}
    check_file(weights)
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": weights}}


def check_file(weights: str) -> None:
    """Raise ModelError unless `weights` names an existing .safetensors file."""
    if not weights.endswith(".safetensors"):
        raise ModelError(
            f"weights {weights!r} are neither 'pretrained', 'random' nor a .safetensors file: "
            "convert other checkpoints with safetensors.torch.save_file"
        )
    if not Path(weights).is_file():
        raise ModelError(f"there are no weights at {weights}")


def _create(timm: Any, name: str, dim: int, size: int | None, arguments: dict[str, Any]) -> nn.Module:
    if size is not None and timm.get_pretrained_cfg_value(name, "fixed_input_size"):
        arguments = arguments | {"img_size": size}
    try:
        model: nn.Module = timm.create_model(name, num_classes=dim, **arguments)
    except Exception as error:  # the hub, the file and the network each raise their own
        what = " ".join(str(error).split())[:200]
        remedy = (
            "; without a connection give a local file (weights=FILE.safetensors) or weights=random"
            if arguments["pretrained"]
            else ""
        )
        raise ModelError(f"timm cannot make {name}: {what}{remedy}") from error
    return model
