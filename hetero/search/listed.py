"""A fixed list of networks as a space: they share no weights, so each is trained before it is scored."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Literal

from pydantic import Field

from hetero.config import Config
from hetero.models.build import PRESETS, Family, NetworkConfig
from hetero.models.foreign.timm_models import TimmConfig
from hetero.search.space import Architecture, Choice, SearchSpace


class ListedSpaceConfig(Config):
    """networks: names of presets, JSON files or fields, such as {kind: timm, name: mobilenetv3_small_050}.

    Their vectors have the anchor's dimension, whatever they say.
    """

    kind: Literal["listed"] = "listed"
    networks: tuple[NetworkConfig, ...] = Field(min_length=1)
    dim: int = Field(default=128, gt=0)


class ListedSpace(SearchSpace):
    """One choice: which network. Its options are their places in the list with a name, `1-elastic-s`."""

    name = "listed"

    def __init__(self, config: ListedSpaceConfig) -> None:
        self.settings = config

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        names = (f"{place}-{_label(each)}" for place, each in enumerate(self.settings.networks))
        return (Choice("network", tuple(names), sized=False),)

    def config(self, architecture: Architecture) -> Family:
        """The network, its vectors of the space's dimension: by its last layer, or by one more it has."""
        (place,) = architecture.genes
        network = self.settings.networks[place]
        field = "dim" if network.project is None else "project"
        return network.model_copy(update={field: self.settings.dim})

    def label(self, architecture: Architecture) -> str:
        """The option taken; also the name of the folder in which it is trained."""
        return str(self.describe(architecture)["network"])


def _label(network: Family) -> str:
    """The preset's name, the name in timm, or the family's."""
    if isinstance(network, TimmConfig):
        return re.sub(r"[^\w.-]", "_", network.name)
    return next((name for name, config in PRESETS.items() if config == network), network.kind)
