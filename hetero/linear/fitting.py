"""The training of one method at one rate: SGD with momentum, a fixed number of epochs, a cosine to zero.

All methods share it, so that they differ only in what the table says: the network or its expansion, the loss,
and what is done to the gradient. Images are taken as they are; batch normalisation stays in evaluation mode.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hetero.config import Config
from hetero.training.checkpoint import load_checkpoint, save_checkpoint
from hetero.training.loop import CHECKPOINT, METRICS, Metrics

Loss = Callable[[Tensor, Tensor], Tensor]
Gradients = dict[str, Tensor]
Precondition = Callable[[Gradients], Mapping[str, Tensor]]
"""Gradients of the trained parameters by name -> the same, better conditioned."""


class LessonConfig(Config):
    """How long a method is trained, whatever the method."""

    epochs: int = Field(default=30, ge=1)
    batch: int = Field(default=32, ge=2)
    momentum: float = Field(default=0.9, gt=0, lt=1)
    decay: float = Field(default=1e-4, ge=0, description="weight decay; of an expansion, towards the start")
    save_seconds: float = Field(default=30.0, ge=0, description="between two states on disk")


@dataclass(frozen=True)
class Lesson:
    """pixels: uint8 [N, 3, S, S]; targets: labels int64 [N], or vectors float32 [N, K]."""

    pixels: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Curve:
    """scores: on validation images after each epoch, 0 once it diverged; seconds: of the training itself."""

    scores: tuple[float, ...]
    seconds: float

    def converged(self, within: float = 0.01) -> int:
        """The first epoch from which the score stays within so much of its last value, counted from 1."""
        below = [epoch for epoch, score in enumerate(self.scores, 1) if score < self.scores[-1] - within]
        return max(below, default=0) + 1


class Fitting:
    """One training in progress, kept in a folder: killed at any moment, it continues with the same result."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        rate: float,
        config: LessonConfig,
        folder: Path,
        seed: int,
        precondition: Precondition | None = None,
    ) -> None:
        """model: float32 [N, 3, S, S] -> float32 [N, K]; trained in place, where it requires a gradient.

        loss: of (outputs, targets); decay is added here. precondition: see `Precondition`.
        """
        self.model, self.loss, self.rate, self.config = model.eval(), loss, rate, config
        self.folder, self.seed, self.precondition = folder, seed, precondition
        self.moving = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.SGD(self.moving.values(), lr=rate, momentum=config.momentum)

    def run(self, lesson: Lesson, score: Callable[[nn.Module], float]) -> Curve:
        """Train to the end; score: of the model, 0 to 1, asked after each epoch."""
        path, metrics = self.folder / CHECKPOINT, Metrics(self.folder / METRICS)
        start = load_checkpoint(path, {"model": self.model}, self.optimizer) if path.exists() else 0
        metrics.begin(start)
        saved = time.monotonic()
        for epoch in range(start, self.config.epochs):
            begun = time.perf_counter()
            loss = self._epoch(lesson, epoch)
            seconds = time.perf_counter() - begun
            found = score(self.model) if math.isfinite(loss) else 0.0
            metrics.write(epoch, {"score": found, "loss": loss, "seconds": seconds})
            if not math.isfinite(loss):
                break
            if time.monotonic() - saved >= self.config.save_seconds:
                save_checkpoint(path, epoch + 1, {"model": self.model}, self.optimizer)
                saved = time.monotonic()
        return self._curve()

    def _epoch(self, lesson: Lesson, epoch: int) -> float:
        """One pass over the images; returns the mean loss, infinite where it diverged."""
        count = len(lesson.pixels)
        order = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(count))
        batches = torch.split(order, self.config.batch)
        losses = []
        for number, rows in enumerate(batches):
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(epoch + number / len(batches))
            losses.append(self._step(as_input(lesson.pixels[rows], self.model), lesson.targets[rows]))
            if not math.isfinite(losses[-1]):
                return math.inf
        return float(np.mean(losses))

    def _step(self, pixels: Tensor, targets: Tensor) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.model(pixels), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {
            name: p.grad + self.config.decay * p.detach()
            for name, p in self.moving.items()
            if p.grad is not None
        }
        better = self.precondition(gradients) if self.precondition else gradients
        for name in gradients:
            self.moving[name].grad = better[name]
        self.optimizer.step()
        return float(loss.detach())

    def _rate(self, epoch: float) -> float:
        return self.rate * 0.5 * (1 + math.cos(math.pi * epoch / self.config.epochs))

    def _curve(self) -> Curve:
        lines = [json.loads(line) for line in (self.folder / METRICS).read_text().splitlines()]
        scores = [line["score"] for line in lines]
        missing = self.config.epochs - len(scores)
        return Curve((*scores, *[0.0] * missing), sum(line["seconds"] for line in lines))


def as_input(pixels: Tensor, model: nn.Module) -> Tensor:
    """uint8 [N, 3, S, S] in the model's own precision."""
    return pixels.to(next(model.parameters()).dtype)


def saved_bytes(model: nn.Module, pixels: Tensor) -> int:
    """What one pass over float32 [N, 3, S, S] keeps for the way back, in bytes; each storage once.

    The part of a training step's memory that grows with the batch.
    """
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = model(pixels).sum()
    del total
    return sum(held.values())
