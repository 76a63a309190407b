"""What `hetero finetune` is told: the task, the lesson, and the few knobs of the methods."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hetero.config import Config
from hetero.linear.fitting import LessonConfig
from hetero.linear.task import TaskConfig
from hetero.training.optimizer import FitConfig


class FinetuneConfig(Config):
    """Everything but the network that is adapted and the methods."""

    seed: int = Field(default=0, ge=0, lt=2**31, description="draws the shots and the order of the images")
    task: TaskConfig = TaskConfig()
    lesson: LessonConfig = LessonConfig()
    target: float = Field(default=15.0, gt=0, description="the one-hot targets of a squared loss, in LQF 15")
    rescaled: float | None = Field(
        default=None, gt=0, description="weight of the own class in a squared loss (Hui & Belkin); None: 1"
    )
    rates: tuple[float, ...] | None = Field(
        default=None, min_length=1, description="learning rates to try instead of the method's own"
    )
    expand: Literal["all", "last"] = Field(
        default="all", description="which layers an expansion moves: all, or the last block and the head"
    )
    damping: float = Field(default=1e-2, gt=0, description="of K-FAC, added to the curvature of a sample")
    draws: int | None = Field(
        default=4, ge=1, description="passes back by which K-FAC is measured; null: one an output, exact"
    )
    probe: int = Field(default=64, ge=1, description="images by which the largest curvature is found")
    leaky: Literal["convert", "keep"] = Field(
        default="convert", description="whether a ReLU network is retrained with LeakyReLU for LQF"
    )
    conversion: FitConfig = FitConfig(steps=500, batch=64, rate=1e-3, ema=0.99)
    size: int | None = Field(default=None, ge=8, le=1024, description="of images, for models from elsewhere")
