"""Stochastic gradient descent with momentum on a tangent, plain or preconditioned; resumable."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hetero.config import Config
from hetero.linear.kfac import Kfac
from hetero.linear.losses import Targets, objective
from hetero.linear.solving import Linear
from hetero.linear.tangent import Tangent
from hetero.progress import track
from hetero.training.checkpoint import load_checkpoint, save_checkpoint
from hetero_devices.errors import ModelError

Batch = tuple[Tensor, Targets]


class DescentConfig(Config):
    """How to descend. penalty: of the sum over samples, see `losses`.

    rate: of the gradient of L / N; with K-FAC of (J'CJ + penalty I)^-1 times half the gradient of L, so that
    1 is a Newton step where K-FAC is exact. cosine: whether the rate falls to zero along half a cosine,
    without which batches keep the weights moving around the optimum.
    """

    rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    steps: int = Field(default=1000, gt=0)
    penalty: float = Field(default=1e-3, ge=0)
    damping: float = Field(default=0.1, ge=0, description="of K-FAC, per sample; 0 where K-FAC is exact")
    cosine: bool = True
    checkpoint_every: int = Field(default=200, gt=0)


def descend(
    tangent: Tangent,
    batches: Callable[[int], Batch],
    samples: int,
    config: DescentConfig,
    *,
    kfac: Kfac | None = None,
    checkpoint: Path | None = None,
    watch: Callable[[int, float], None] = lambda step, loss: None,
) -> Tangent:
    """Train the tangent's update in place, and return it.

    batches: step -> inputs and targets, see `drawn`; samples: N. kfac: preconditions; None is plain SGD.
    checkpoint: a file that keeps the state; called again after a kill it continues, with the same result.
    watch: called with each step and its loss L / N. ModelError when the loss is not finite.
    """
    optimiser = torch.optim.SGD(tangent.update.parameters(), config.rate, config.momentum)
    modules: dict[str, nn.Module] = {"update": tangent.update}
    resumes = checkpoint is not None and checkpoint.exists()
    first = load_checkpoint(checkpoint, modules, optimiser) if resumes and checkpoint else 0
    for step in track(range(first, config.steps), "fine-tune"):
        for group in optimiser.param_groups:
            group["lr"] = config.rate * _share(step, config)
        watch(step, _backward(tangent, *batches(step), samples, config.penalty))
        if kfac is not None:
            _precondition(tangent, kfac, samples, config)
        optimiser.step()
        if checkpoint is not None and (step + 1) % config.checkpoint_every == 0:
            save_checkpoint(checkpoint, step + 1, modules, optimiser)
    return tangent


def drawn(inputs: Tensor, targets: Targets, batch: int, seed: int) -> Callable[[int], Batch]:
    """Batches that pass over all samples in a new order every epoch, a function of the step alone.

    The last batch of an epoch is left out where it would be smaller, so that all weigh the same; a batch of
    all samples, or more, is the whole set.
    """
    size = min(batch, len(inputs))
    each = len(inputs) // size

    def take(step: int) -> Batch:
        epoch, place = divmod(step, each)
        order = np.random.default_rng([seed, epoch]).permutation(len(inputs))
        rows = torch.from_numpy(order[place * size : (place + 1) * size])
        return inputs[rows], targets.rows(rows)

    return take


def largest_eigenvalue(operator: Linear, width: int, steps: int = 30, seed: int = 0) -> float:
    """Of a symmetric positive map, or of a product P^-1 M of two, by power iteration from random numbers.

    operator: v -> A v for float [width]. A descent at `rate` converges for rate < 2 / it, 1 / it is safe.
    """
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    length = vector.norm()
    for _ in range(steps):
        vector = operator(vector / length)
        length = vector.norm()
    return float(length)


def _share(step: int, config: DescentConfig) -> float:
    return (1 + math.cos(math.pi * step / config.steps)) / 2 if config.cosine else 1.0


def _backward(tangent: Tangent, inputs: Tensor, targets: Targets, samples: int, penalty: float) -> float:
    tangent.zero_grad(set_to_none=True)
    loss = objective(tangent(inputs), targets, tangent.update.parameters(), penalty, samples)
    if not torch.isfinite(loss):
        raise ModelError("the loss is not finite: lower the rate")
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


@torch.no_grad()
def _precondition(tangent: Tangent, kfac: Kfac, samples: int, config: DescentConfig) -> None:
    parameters = tangent.delta()
    half = {name: samples / 2 * p.grad for name, p in parameters.items() if p.grad is not None}
    for name, direction in kfac.solve(half, config.penalty, config.damping).items():
        parameters[name].grad = direction
