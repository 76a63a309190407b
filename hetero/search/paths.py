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
    shrinking: share of the training in which smaller options are allowed little by little, the largest
    network first (Cai et al., Once-for-All, ICLR 2020); 0 allows all from the start.

    Single paths are the default: their scores ordered networks as training from scratch does, where a
    sandwich, which trains its smallest candidate at every step, overrates small ones (benchmarks/paths.py).
    """

    rule: Literal["single", "sandwich"] = "single"
    between: int = Field(default=1, ge=0, description="random candidates of a sandwich step")
    shrinking: float = Field(default=0.0, ge=0, lt=1)
    steps: int = Field(default=1, gt=0, description="of the whole training; the search sets it")

    @property
    def count(self) -> int:
        """Candidates a step."""
        return 1 if self.rule == "single" else 2 + self.between

    def draw(self, space: SearchSpace, step: int) -> tuple[Architecture, ...]:
        """The candidates of a step, by torch's random state, the largest first in a sandwich."""
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        floor = self._floor(step)
        if self.rule == "single":
            return (space.sample(generator, floor),)
        inner = (space.sample(generator, floor) for _ in range(self.between))
        return space.largest(), *inner, space.smallest(floor)

    def _floor(self, step: int) -> float:
        """Options below this share of a choice's range are not allowed yet."""
        end = self.shrinking * self.steps
        return max(0.0, 1 - step / end) if end else 0.0
