"""Which candidates a training step of the supernet sees."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from hetero.config import Config
from hetero.search.space import Architecture, SearchSpace


class Paths(Config):
    """How candidates are drawn for a step.

    rule: `single` is one uniform path a step (Guo et al., Single Path One-Shot, ECCV 2020); `sandwich` the
    largest, the smallest and random ones between, the others taught by the largest (Yu & Huang, 2019).
    `graded` is ours: random ones, each made smaller by a random share of the way to the smallest, so that
    small candidates are seen as often as large ones. Uniform paths are nearly all of middle size, and a
    sandwich trains its smallest candidate at every step, which a tight budget then prefers to all others.
    shrinking: share of the training in which smaller options are allowed little by little, the largest
    network first (Cai et al., Once-for-All, ICLR 2020); 0 allows all from the start.
    """

    rule: Literal["single", "sandwich", "graded"] = "sandwich"
    between: int = Field(
        default=1, ge=0, description="random candidates of a sandwich step; one more are in a graded step"
    )
    shrinking: float = Field(default=0.0, ge=0, lt=1)
    steps: int = Field(default=1, gt=0, description="of the whole training; the search sets it")

    @property
    def count(self) -> int:
        """Candidates a step."""
        return {"single": 1, "sandwich": 2 + self.between, "graded": 1 + self.between}[self.rule]

    @property
    def taught(self) -> bool:
        """Whether the first candidate of a step is the largest, from which the others learn."""
        return self.rule == "sandwich"

    def draw(self, space: SearchSpace, step: int) -> tuple[Architecture, ...]:
        """The candidates of a step, by torch's random state, the largest first in a sandwich."""
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        floor = self._floor(step)
        match self.rule:
            case "single":
                return (space.sample(generator, floor),)
            case "sandwich":
                inner = (space.sample(generator, floor) for _ in range(self.between))
                return space.largest(), *inner, space.smallest(floor)
            case "graded":
                return tuple(_graded(space, generator, floor, k, self.count) for k in range(self.count))

    def _floor(self, step: int) -> float:
        """Options below this share of a choice's range are not allowed yet."""
        end = self.shrinking * self.steps
        return max(0.0, 1 - step / end) if end else 0.0


def _graded(
    space: SearchSpace, generator: np.random.Generator, floor: float, part: int, parts: int
) -> Architecture:
    """A random candidate made smaller by a random share of the way, out of one of `parts` equal parts."""
    drawn = space.sample(generator, floor)
    way = [drawn, *space.shrinking(drawn, generator, floor)]
    return way[int((part + generator.random()) / parts * len(way))]
