"""The elastic family as a search space: resolution, width, depth, kernel, expansion, gates, activation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from hetero.config import Config
from hetero.models.elastic import ElasticConfig, Stage
from hetero.models.layers import Activation
from hetero.search.space import Architecture, Choice, SharedSpace, check_rising, named_by_place


class StageSpace(Config):
    """What a stage may be: one width and depth for all of it; kernel, expansion and gate for every block.

    Options rise: the supernet has the size of the last ones.
    """

    width: tuple[int, ...] = Field(min_length=1)
    depth: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    kernel: tuple[Literal[3, 5, 7], ...] = Field(default=(3, 5), min_length=1)
    expansion: tuple[float, ...] = Field(default=(2.0, 3.0, 4.0), min_length=1)
    squeeze_excite: tuple[bool, ...] = Field(default=(False, True), min_length=1)
    stride: Literal[1, 2] = 2


class ElasticSpaceConfig(Config):
    """The space around the presets of the student: from below elastic-xs to about elastic-l."""

    kind: Literal["elastic"] = "elastic"
    resolution: tuple[int, ...] = Field(
        default=(), description="sides that images are resized to; none: as they are"
    )
    stem: tuple[int, ...] = Field(default=(8, 16, 24), min_length=1)
    stem_stride: Literal[1, 2] = 2
    stages: tuple[StageSpace, ...] = Field(
        default=(
            StageSpace(width=(8, 16, 24), depth=(1, 2), stride=1),
            StageSpace(width=(16, 24, 32, 40), depth=(1, 2, 3)),
            StageSpace(width=(32, 48, 64, 80), depth=(1, 2, 3, 4)),
        ),
        min_length=1,
    )
    head: tuple[int, ...] = Field(default=(96, 128, 192, 256), min_length=1)
    activation: tuple[Activation, ...] = ("relu6", "hswish")
    dim: int = Field(default=128, gt=0)
    project: int | None = None

    @model_validator(mode="after")
    def _rising(self) -> ElasticSpaceConfig:
        for where, options in self._ordered():
            check_rising(where, options)
        return self

    def _ordered(self) -> Iterator[tuple[str, Sequence[float]]]:
        yield "resolution", self.resolution
        yield "stem", self.stem
        yield "head", self.head
        for number, stage in enumerate(self.stages):
            for name in ("width", "depth", "kernel", "expansion", "squeeze_excite"):
                yield f"stages.{number}.{name}", getattr(stage, name)


@dataclass(frozen=True)
class BlockPlan:
    """One block of a candidate: where it stands in the supernet, and what it is there."""

    stage: int
    index: int
    inputs: int
    outputs: int
    block: Stage


class ElasticSpace(SharedSpace):
    """Candidates are `ElasticConfig`s; blocks of a stage may differ, so each is a stage of depth 1 there."""

    name = "elastic"

    def __init__(self, config: ElasticSpaceConfig) -> None:
        self.settings = config

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(self._choices())

    def config(self, architecture: Architecture) -> ElasticConfig:
        taken = self.describe(architecture)
        plans = self.plan(architecture)
        return ElasticConfig(
            stem=taken["stem"],
            stem_stride=self.settings.stem_stride,
            stages=tuple(plan.block for plan in plans),
            head=taken["head"],
            activation=taken["activation"],
            dim=self.settings.dim,
            project=self.settings.project,
            resolution=taken.get("resolution"),
        )

    def canonical(self, architecture: Architecture) -> Architecture:
        """Genes of blocks deeper than their stage is are 0."""
        genes, names = list(architecture.genes), [choice.name for choice in self.choices]
        taken = self.describe(architecture)
        for number, stage in enumerate(self.settings.stages):
            for index in range(taken[f"stage{number}.depth"], max(stage.depth)):
                for part in ("kernel", "expansion", "squeeze_excite"):
                    genes[names.index(f"stage{number}.{index}.{part}")] = 0
        return Architecture(tuple(genes))

    def plan(self, architecture: Architecture) -> tuple[BlockPlan, ...]:
        """The blocks of a candidate in order."""
        taken, inputs, plans = self.describe(architecture), 0, list[BlockPlan]()
        inputs = taken["stem"]
        for number, stage in enumerate(self.settings.stages):
            width = taken[f"stage{number}.width"]
            for index in range(taken[f"stage{number}.depth"]):
                block = Stage(
                    width=width,
                    stride=stage.stride if index == 0 else 1,
                    kernel=taken[f"stage{number}.{index}.kernel"],
                    expansion=taken[f"stage{number}.{index}.expansion"],
                    squeeze_excite=taken[f"stage{number}.{index}.squeeze_excite"],
                )
                plans.append(BlockPlan(number, index, inputs, width, block))
                inputs = width
        return tuple(plans)

    def cover(self) -> tuple[Architecture, ...]:
        return (self.largest(),)

    def shared_name(self, architecture: Architecture, parameter: str) -> str:
        """A block is the first, second, ... of its stage; what stands around them is named by its role."""
        blocks = [f"stage{each.stage}.{each.index}" for each in self.plan(architecture)]
        return named_by_place(parameter, blocks, self.settings.project is not None)

    def _choices(self) -> Iterator[Choice]:
        space = self.settings
        if space.resolution:
            yield Choice("resolution", space.resolution)
        yield Choice("stem", space.stem)
        for number, stage in enumerate(space.stages):
            yield Choice(f"stage{number}.width", stage.width)
            yield Choice(f"stage{number}.depth", stage.depth)
            for index in range(max(stage.depth)):
                yield Choice(f"stage{number}.{index}.kernel", stage.kernel)
                yield Choice(f"stage{number}.{index}.expansion", stage.expansion)
                yield Choice(f"stage{number}.{index}.squeeze_excite", stage.squeeze_excite)
        yield Choice("head", space.head)
        yield Choice("activation", space.activation)
