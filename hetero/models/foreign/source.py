"""From what the user wrote to a module: `timm:NAME`, `hf:NAME_OR_FOLDER` or `package.module:function`."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import torch
from torch import nn

from hetero.models.foreign import huggingface, timm_models
from hetero.models.foreign.adopt import adopt
from hetero.models.foreign.config import ForeignConfig
from hetero.models.foreign.timm_models import Backbone, check_file
from hetero.models.foreign.torchvision_shim import make_importable
from hetero.models.store import Model
from hetero.tensors import load_tensors
from hetero_devices.errors import ModelError


def is_foreign(source: str) -> bool:
    """Whether `source` is one of the three forms, and not a path."""
    return ":" in source and not Path(source).exists()


def open_model(config: ForeignConfig, seed: int = 0) -> Model:
    """The model that `config` describes, in a space of its own; `seed`: of random weights.

    Raises MissingExtra without the library it comes from, ModelError for anything that cannot be used.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        found = _backbone(config)
    example = torch.zeros(2, 3, found.size, found.size)
    mean, std = config.mean or found.mean, config.std or found.std
    recorded = config.model_copy(update={"size": found.size, "mean": mean, "std": std})
    return adopt(
        found.network,
        example,
        mean=mean,
        std=std,
        embedding=config.embedding,
        pool=config.pool,
        config=recorded,
    )


def _backbone(config: ForeignConfig) -> Backbone:
    kind, _, name = config.source.partition(":")
    if kind == "timm":
        return timm_models.backbone(name, config.weights, config.size)
    if kind == "hf":
        return huggingface.backbone(name, config.weights, config.size, embedding=config.embedding)
    if config.size is None:
        raise ModelError(
            f"the model {config.source!r} does not say how large its images are: give size=PIXELS"
        )
    module = called(config.source)
    _load(module, config.weights)
    return Backbone(module, config.size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def called(source: str) -> nn.Module:
    """What `package.module:function` returns; ModelError unless it is a torch module.

    Modules are also looked for in the current folder, as `python -m` does.
    """
    name, _, function = source.partition(":")
    make_importable()
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = getattr(importlib.import_module(name), function)()
    except Exception as error:  # somebody else's code raises whatever it likes
        raise ModelError(f"{source!r} cannot be built: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{source!r} returned a {type(module).__name__}, not a torch module")
    return module


def _load(module: nn.Module, weights: str) -> None:
    """A file's weights into the module; otherwise it keeps those that its function gave it."""
    if weights in ("pretrained", "random"):
        return
    check_file(weights)
    try:
        module.load_state_dict(load_tensors(Path(weights))[0])
    except RuntimeError as error:
        raise ModelError(
            f"the weights in {weights} do not fit: {' '.join(str(error).split())[:200]}"
        ) from None
