"""Image models of Hugging Face's transformers, from the hub or a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from hetero.models.foreign.config import Channels
from hetero.models.foreign.timm_models import Backbone, check_file
from hetero.models.foreign.torchvision_shim import make_importable
from hetero.tensors import load_tensors
from hetero_devices.errors import ModelError, require

_HALF: Channels = (0.5, 0.5, 0.5)


def backbone(
    name: str, weights: str = "pretrained", size: int | None = None, *, embedding: str | int | None = None
) -> Backbone:
    """The image model `name`, a hub id or a folder with config.json, and how it wants its pixels.

    weights: `pretrained`, `random` (by torch's present seed) or the path of a .safetensors file. Code that
    comes with a model is never run. mean and std are those of preprocessor_config.json, 0.5 without one.
    Raises MissingExtra without transformers; ModelError where the model or its weights cannot be had, or the
    checkpoint lacks layers (such as a pooler) and `embedding` does not say which output to take instead.
    """
    make_importable()
    transformers = require("transformers", "huggingface")
    if weights not in ("pretrained", "random"):
        check_file(weights)
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        network, missing = _network(transformers, name, config, weights)
    except ModelError:
        raise
    except Exception as error:  # the hub, the files and the network each raise their own
        what = " ".join(str(error).split())[:200]
        raise ModelError(
            f"transformers cannot load {name!r}: {what}; without a connection give a local folder"
        ) from error
    if missing and embedding is None:
        raise ModelError(
            f"the checkpoint of {name} lacks {len(missing)} tensors (first {min(missing)}): "
            "take another output, e.g. embedding=last_hidden_state"
        )
    processor = _processor(name)
    return Backbone(network, size or _side(config, processor), *_scaling(processor))


def _network(transformers: Any, name: str, config: Any, weights: str) -> tuple[nn.Module, set[str]]:
    """The network, and the names of tensors its checkpoint does not have."""
    if weights == "pretrained":
        network, info = transformers.AutoModel.from_pretrained(
            name, config=config, use_safetensors=True, output_loading_info=True
        )
        return network, set(info["missing_keys"])
    network = transformers.AutoModel.from_config(config)
    if weights == "random":
        return network, set()
    prefix = f"{network.base_model_prefix}."  # a checkpoint of a whole classifier names its backbone
    tensors = {key.removeprefix(prefix): value for key, value in load_tensors(Path(weights))[0].items()}
    return network, set(network.load_state_dict(tensors, strict=False).missing_keys)


def _processor(name: str) -> dict[str, Any]:
    """preprocessor_config.json; empty where there is none."""
    mixin = require("transformers.image_processing_base", "huggingface").ImageProcessingMixin
    try:
        fields: dict[str, Any] = mixin.get_image_processor_dict(name)[0]
    except OSError:
        return {}
    return fields


def _scaling(processor: dict[str, Any]) -> tuple[Channels, Channels]:
    """Mean and standard deviation of RGB in 0..1."""
    if processor.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = (tuple(map(float, processor.get(key, _HALF))) for key in ("image_mean", "image_std"))
    if len(mean) != 3 or len(std) != 3:
        raise ModelError(f"the model scales {len(mean)} channels, expected the three of RGB")
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _side(config: Any, processor: dict[str, Any]) -> int:
    """Of the images: what the processor crops or resizes to, else what the network was built for."""
    stated: Any = processor.get("crop_size") or processor.get("size") or getattr(config, "image_size", None)
    if isinstance(stated, dict):
        stated = stated.get("height") or stated.get("shortest_edge")
    if not isinstance(stated, int):
        raise ModelError("the model does not say how large its images are: give size=PIXELS")
    return stated
