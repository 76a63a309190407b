"""How a recipe says that a student is finished for int8."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hetero.config import Config
from hetero.objectives.terms import TermConfig
from hetero.training.optimizer import FitConfig

Correction = Literal["equalise", "adaround", "bias"]


class QuantisedConfig(Config):
    """Finishing a trained student for int8, once per exported format.

    corrections: done first, in this order, without training. fit: then quantisation-aware training; null
    for none. objective: null for the student's own. teacher: whose embeddings are the target, the
    anchor's or the float student's. images: a folder of unlabelled images to train on instead of the
    training images.
    """

    corrections: tuple[Correction, ...] = ()
    fit: FitConfig | None = FitConfig(
        steps=400, batch=64, rate=3e-4, weight_decay=0, ema=0.98, checkpoint_every=50
    )
    objective: tuple[TermConfig, ...] | None = Field(default=None, min_length=1)
    teacher: Literal["anchor", "student"] = "anchor"
    images: str | None = Field(default=None, description="folder of unlabelled images, searched to any depth")
    refresh: int = Field(
        default=50, gt=0, description="steps after which activation ranges are measured anew"
    )

    @model_validator(mode="after")
    def _does_something(self) -> QuantisedConfig:
        if self.fit is None and not self.corrections:
            raise ValueError("give corrections, fit, or both: otherwise nothing would be finished")
        if self.fit is not None and self.fit.precision != "fp32":
            raise ValueError(
                "fit.precision must be fp32: the steps of int8 arithmetic are simulated in float32"
            )
        positions = [("equalise", "adaround", "bias").index(name) for name in self.corrections]
        if positions != sorted(set(positions)):
            raise ValueError("corrections are each given once, in the order equalise, adaround, bias")
        return self
