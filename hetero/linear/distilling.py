"""From a tangent to one plain network: its weights merged, then trained to give the tangent's embeddings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hetero.linear.tangent import Tangent
from hetero.models.deploy import Deploy
from hetero.objectives.terms import Given, Objective, RegressionConfig
from hetero.training.batches import Batch
from hetero.training.loop import Fit
from hetero.training.optimizer import FitConfig
from hetero_devices.space import Preprocessing


def merged(tangent: Tangent) -> nn.Module:
    """A plain network at w0 + update: f(x; w), which is not the tangent's f(x; w0) + J(x) (w - w0).

    The two differ by the second order of the update: `gap` measures it. Where it is too large, `distilled`.
    """
    network = copy.deepcopy(tangent.network)
    with torch.no_grad():
        for name, change in tangent.delta().items():
            network.get_parameter(name).add_(change)
    return network.requires_grad_(True)


@torch.no_grad()
def gap(tangent: Tangent, network: nn.Module, inputs: Tensor) -> float:
    """mean |network(x) - tangent(x)| / mean |tangent(x) - f(x; w0)|, norms over outputs: 0 is no gap.

    1: the plain network is as far from the tangent as the network before fine-tuning. inputs: as the network.
    """
    outputs, change = tangent.both(inputs)
    missed = (network.eval()(inputs) - outputs - change).norm(dim=1).mean()
    return float(missed / change.norm(dim=1).mean().clamp(min=1e-30))


def distilled(
    tangent: Tangent,
    preprocessing: Preprocessing,
    dim: int,
    batches: Callable[[int], Batch],
    config: FitConfig,
    folder: Path,
    seed: int = 0,
) -> Deploy:
    """The merged network, trained by the library's loop to embed as the tangent does: 1 - cosine.

    batches: as for any training; only their pixels are used. folder: keeps the state; called again after a
    kill it continues, with the same result. Returns the averaged network in evaluation mode.
    """
    teacher = Deploy(tangent, preprocessing).eval()

    def taught(step: int) -> Batch:
        batch = batches(step)
        with torch.no_grad():
            targets = teacher.embed(batch.pixels)
        return replace(batch, supervision=replace(batch.supervision, targets=targets))

    torch.manual_seed(seed)
    objective = Objective((RegressionConfig(),), Given(classes=1, dim=dim, anchor=True, head=None))
    student = Deploy(merged(tangent), preprocessing)
    return Fit(student, objective, config, folder, seed).run(taught)
