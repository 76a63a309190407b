"""From a name or a configuration to a network."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from torch import nn

from hetero.models import elastic, residual, shuffle
from hetero.models.elastic import ElasticConfig, ElasticNet
from hetero.models.foreign import timm_models
from hetero.models.foreign.timm_models import TimmConfig
from hetero.models.residual import ResidualConfig, ResidualNet
from hetero.models.shuffle import ShuffleConfig, ShuffleNet
from hetero_devices.files import read_json

Preset = ElasticConfig | ShuffleConfig | ResidualConfig

PRESETS: dict[str, Preset] = {**elastic.PRESETS, **shuffle.PRESETS, **residual.PRESETS}


def preset(name: str) -> Preset:
    """The named architecture; ValueError names the nearest one otherwise."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1, cutoff=0)
        raise ValueError(
            f"there is no network {name!r}; the nearest is {near[0]!r} (known: {', '.join(PRESETS)})"
        )
    return PRESETS[name]


def named(value: str) -> Any:
    """A preset's configuration, or the fields in a JSON file, such as a search writes.

    ValueError names the nearest preset, or says why the file cannot be read.
    """
    return read_json(Path(value).expanduser()) if value.endswith(".json") else preset(value)


def _from_name(value: Any) -> Any:
    return named(value) if isinstance(value, str) else value


Family = ElasticConfig | ShuffleConfig | ResidualConfig | TimmConfig

NetworkConfig = Annotated[Family, Field(discriminator="kind"), BeforeValidator(_from_name)]
"""In a recipe: a preset's name, a JSON file, or the fields of one of the families."""


def build(config: Family, *, weights: bool = True) -> nn.Module:
    """A network as training starts from it: float32 [N, 3, S, S] -> float32 [N, config.output_dim].

    weights: whether to bring pretrained ones where the config asks for them; False where others follow.
    """
    network = _family(config, weights)
    return (
        network if config.project is None else nn.Sequential(network, nn.Linear(config.dim, config.project))
    )


def _family(config: Family, weights: bool) -> nn.Module:
    match config:
        case ElasticConfig():
            return ElasticNet(config)
        case ShuffleConfig():
            return ShuffleNet(config)
        case ResidualConfig():
            return ResidualNet(config)
        case TimmConfig():
            return timm_models.network(config, weights=weights)
