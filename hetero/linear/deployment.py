"""A linearised embedding as a deployable module of plain operators, which exports like any other."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from hetero.linear.dual import DualNetwork
from hetero.linear.tangent import Tangent
from hetero.models.deploy import Deploy
from hetero.models.layers import UnitNorm


class Embedding(nn.Module):
    """float32 [N, 3, S, S] pixels 0..255 -> unit float32 [N, D], of a copy: what is expanded or trained."""

    def __init__(self, deploy: Deploy) -> None:
        super().__init__()
        self.deploy = copy.deepcopy(deploy)

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.deploy.embed(pixels)
        return embedding


class Paired(nn.Module):
    """float32 [N, 3, S, S] -> float32 [N, 2 D]: a network's output, and beside it the change of it."""

    def __init__(self, dual: DualNetwork) -> None:
        super().__init__()
        self.dual = dual

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat(self.dual.both(inputs), 1)


class ExpandedNorm(nn.Module):
    """float32 [N, 2 D], an output y and its change dy -> float32 [N, D] of unit norm.

    u + du with u = y / |y| and du = (dy - u <u, dy>) / |y|, the first-order expansion of the unit norm, which
    leaves the sphere and is scaled back. It stands where the unit norm does, so quantisers leave it in float.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.after = UnitNorm()

    def forward(self, x: Tensor) -> Tensor:
        value, change = x[:, : self.dim], x[:, self.dim :]
        inverse = torch.rsqrt((value * value).sum(1, keepdim=True) + 1e-12)
        unit, moved = value * inverse, change * inverse
        embedding: Tensor = self.after(unit + moved - unit * (unit * moved).sum(1, keepdim=True))
        return embedding


def deployable(trained: nn.Module) -> Deploy:
    """An `Embedding`, or the tangent of one, for the exporters.

    Pixels in, unit embedding out. Raises ModelError for a network with an operator that has no dual form.
    """
    if not isinstance(trained, Tangent):
        assert isinstance(trained, Embedding)
        return trained.deploy.eval()
    start = trained.network
    assert isinstance(start, Embedding)
    assert isinstance(start.deploy.unit_norm, UnitNorm), "a link's layers are not expanded"
    below = "deploy.network."
    update = {name.removeprefix(below): delta for name, delta in trained.delta().items()}
    tangent = Tangent(start.deploy.network, tuple(update))
    tangent.move(update)
    paired, preprocessing = Paired(DualNetwork(tangent)), start.deploy.preprocessing
    with torch.no_grad():
        width = paired(torch.zeros(1, 3, preprocessing.size, preprocessing.size)).shape[1]
    return Deploy(paired, preprocessing, ExpandedNorm(width // 2)).eval()
