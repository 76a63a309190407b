"""The shuffle family as a search space: as in SPOS (Guo et al., ECCV 2020), which CMP-NAS searched.

What varies of a block is its operator, and of a stage the channels inside its blocks ("channel search"),
never the width that blocks hand on: which channels pass by, which are worked on and how they are interleaved
is thus the same for all candidates, and the first channels inside a block are in each of them the same ones.
Were widths to vary, the halves of a narrower block would be other channels than those of a wider one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, model_validator

from hetero.config import Config
from hetero.models.layers import Activation
from hetero.models.shuffle import Operator, ShuffleConfig, ShuffleStage
from hetero.search.space import Architecture, Choice, SharedSpace, check_rising, named_by_place


class ShuffleStageSpace(Config):
    """What a stage may be: one depth and hidden width for all of it, an operator for every block.

    hidden: channels inside a block, as multiples of half the width.
    """

    width: int = Field(gt=0)
    depth: tuple[int, ...] = Field(default=(2, 3, 4), min_length=1)
    hidden: tuple[float, ...] = Field(default=(0.5, 1.0, 2.0, 4.0), min_length=1)
    operators: tuple[Operator, ...] = Field(
        default=("shuffle3", "shuffle5", "shuffle7", "xception"), min_length=1
    )
    stride: Literal[1, 2] = 2


class ShuffleSpaceConfig(Config):
    """From about half the operations of elastic-xs to twice those of elastic-m, on images of 32 pixels."""

    kind: Literal["shuffle"] = "shuffle"
    resolution: tuple[int, ...] = Field(
        default=(), description="sides that images are resized to; none: as they are"
    )
    stem: tuple[int, ...] = Field(default=(8, 16, 24), min_length=1)
    stem_stride: Literal[1, 2] = 2
    stages: tuple[ShuffleStageSpace, ...] = Field(
        default=(
            ShuffleStageSpace(width=16, depth=(1, 2), stride=1),
            ShuffleStageSpace(width=32, depth=(1, 2, 3, 4)),
            ShuffleStageSpace(width=64, depth=(1, 2, 3, 4)),
        ),
        min_length=1,
    )
    head: tuple[int, ...] = Field(default=(64, 96, 128, 192), min_length=1)
    activation: tuple[Activation, ...] = ("relu", "hswish")
    dim: int = Field(default=128, gt=0)
    project: int | None = None

    @model_validator(mode="after")
    def _rising(self) -> ShuffleSpaceConfig:
        for where, options in self._ordered():
            check_rising(where, options)
        return self

    def _ordered(self) -> Iterator[tuple[str, Sequence[float]]]:
        yield "resolution", self.resolution
        yield "stem", self.stem
        yield "head", self.head
        for number, stage in enumerate(self.stages):
            yield f"stages.{number}.depth", stage.depth
            yield f"stages.{number}.hidden", stage.hidden


class ShuffleSpace(SharedSpace):
    """Candidates are `ShuffleConfig`s. Every operator of a block has weights of its own, as in SPOS.

    The depthwise shortcut of a stage's first block is that of all its operators.
    """

    name = "shuffle"

    def __init__(self, config: ShuffleSpaceConfig) -> None:
        self.settings = config

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(self._choices())

    def config(self, architecture: Architecture) -> ShuffleConfig:
        taken, space = self.describe(architecture), self.settings
        return ShuffleConfig(
            stem=taken["stem"],
            stem_stride=space.stem_stride,
            stages=tuple(self._stage(taken, number) for number in range(len(space.stages))),
            head=taken["head"],
            activation=taken["activation"],
            dim=space.dim,
            project=space.project,
            resolution=taken.get("resolution"),
        )

    def canonical(self, architecture: Architecture) -> Architecture:
        """Operators of blocks deeper than their stage is are the first."""
        genes, names = list(architecture.genes), [choice.name for choice in self.choices]
        taken = self.describe(architecture)
        for number, stage in enumerate(self.settings.stages):
            for index in range(taken[f"stage{number}.depth"], max(stage.depth)):
                genes[names.index(f"stage{number}.{index}.operator")] = 0
        return Architecture(tuple(genes))

    def cover(self) -> tuple[Architecture, ...]:
        """The largest candidate by each operator alone; where a stage has fewer, its first again."""
        count = max(len(stage.operators) for stage in self.settings.stages)
        return tuple(self._throughout(number) for number in range(count))

    def shared_name(self, architecture: Architecture, parameter: str) -> str:
        """A block is the first, second, ... of its stage, by its operator; a shortcut by place alone."""
        stages = enumerate(self.config(architecture).stages)
        blocks = [(f"stage{n}.{i}", each) for n, stage in stages for i, each in enumerate(stage.operators)]
        wrapped = self.settings.project is not None
        name = named_by_place(parameter, [place for place, _ in blocks], wrapped)
        for place, operator in blocks:
            if name.startswith(f"{place}.body."):
                return f"{place}.{operator}{name.removeprefix(f'{place}.body')}"
        return name

    def _stage(self, taken: dict[str, Any], number: int) -> ShuffleStage:
        space = self.settings.stages[number]
        operators = (taken[f"stage{number}.{i}.operator"] for i in range(taken[f"stage{number}.depth"]))
        return ShuffleStage(
            width=space.width,
            operators=tuple(operators),
            hidden=taken[f"stage{number}.hidden"],
            stride=space.stride,
        )

    def _throughout(self, operator: int) -> Architecture:
        pairs = zip(self.choices, self.largest().genes, strict=True)
        return Architecture(
            tuple(gene if choice.sized else operator % len(choice.options) for choice, gene in pairs)
        )

    def _choices(self) -> Iterator[Choice]:
        space = self.settings
        if space.resolution:
            yield Choice("resolution", space.resolution)
        yield Choice("stem", space.stem)
        for number, stage in enumerate(space.stages):
            yield Choice(f"stage{number}.depth", stage.depth)
            yield Choice(f"stage{number}.hidden", stage.hidden)
            for index in range(max(stage.depth)):
                yield Choice(f"stage{number}.{index}.operator", stage.operators, sized=False)
        yield Choice("head", space.head)
        yield Choice("activation", space.activation)
