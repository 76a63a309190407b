"""Random members of the elastic family, between elastic-xs and elastic-l."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from hetero.models.elastic import ElasticConfig, Stage
from hetero.models.layers import Activation

T = TypeVar("T")


@dataclass(frozen=True)
class Choices:
    """What may vary. widths, depths: of each stage; the first stage keeps the resolution, others halve it.

    resolutions: to which images may be resized, beside staying as they are.
    """

    stems: tuple[int, ...] = (8, 16, 24)
    widths: tuple[tuple[int, ...], ...] = ((8, 16, 24), (16, 32, 40), (32, 64, 80))
    depths: tuple[tuple[int, ...], ...] = ((1, 2), (1, 2, 3), (1, 2, 3, 4))
    kernels: tuple[Literal[3, 5, 7], ...] = (3, 5)
    expansions: tuple[float, ...] = (2, 3, 4)
    squeeze_excite: tuple[bool, ...] = (False, False, True)
    heads: tuple[int, ...] = (128, 192, 384)
    activations: tuple[Activation, ...] = ("relu6", "hswish")
    resolutions: tuple[int, ...] = ()


def sample(generator: np.random.Generator, choices: Choices | None = None) -> ElasticConfig:
    """One network, every choice drawn evenly and by itself."""
    among = choices or Choices()
    stages = tuple(
        Stage(
            width=_one(generator, widths),
            depth=_one(generator, depths),
            stride=1 if index == 0 else 2,
            kernel=_one(generator, among.kernels),
            expansion=_one(generator, among.expansions),
            squeeze_excite=_one(generator, among.squeeze_excite),
        )
        for index, (widths, depths) in enumerate(zip(among.widths, among.depths, strict=True))
    )
    return ElasticConfig(
        stem=_one(generator, among.stems),
        stages=stages,
        head=_one(generator, among.heads),
        activation=_one(generator, among.activations),
        resolution=_one(generator, (None, *among.resolutions)),
    )


def sample_distinct(count: int, seed: int, choices: Choices | None = None) -> list[ElasticConfig]:
    """`count` different networks; the same seed gives the same, and a prefix of any longer list."""
    generator, found = np.random.default_rng(seed), dict[str, ElasticConfig]()
    while len(found) < count:
        config = sample(generator, choices)
        found.setdefault(config.model_dump_json(), config)
    return list(found.values())


def _one(generator: np.random.Generator, among: Sequence[T]) -> T:
    return among[int(generator.integers(len(among)))]
