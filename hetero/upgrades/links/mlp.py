"""An affine map with a small network beside it."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hetero.objectives.regression import cosine_regression
from hetero.upgrades.links.affine import Affine
from hetero.upgrades.links.descent import DescentConfig, descend, seeded
from hetero.upgrades.links.method import Dims, Method, Pairs


class ResidualMlp(nn.Module):
    """x -> A x + b + V relu(U x + c): float32 [N, Ds] -> float32 [N, Dt]."""

    def __init__(self, dims: Dims, hidden: int) -> None:
        super().__init__()
        self.base = nn.Linear(dims.source, dims.target)
        self.up = nn.Linear(dims.source, hidden)
        self.down = nn.Linear(hidden, dims.target)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x) + self.down(F.relu(self.up(x)))
        return y


class Mlp(Method):
    """Ridge regression, then descent on 1 - cosine of it and of a residual network that starts at zero."""

    source = "Drift-Adapter, EMNLP 2025: residual MLP of 256; loss and steps of this library"
    kind: Literal["mlp"] = "mlp"
    hidden: int = Field(default=256, gt=0)
    ridge: float = Field(default=1e-4, gt=0, description="of the affine map that it starts from")
    descent: DescentConfig = DescentConfig()

    def fit(self, pairs: Pairs) -> nn.Module:
        fitted = pairs.part(held=False)
        dims = Dims(fitted.source.shape[1], fitted.target.shape[1])
        network = seeded(pairs.seed, lambda: self.build(dims))
        assert isinstance(network, ResidualMlp)
        network.base.load_state_dict(Affine(ridge=self.ridge).fit(pairs).state_dict())
        nn.init.zeros_(network.down.weight)
        nn.init.zeros_(network.down.bias)

        def loss(rows: Tensor) -> Tensor:
            return cosine_regression(F.normalize(network(fitted.source[rows]), dim=1), fitted.target[rows])

        descend(network, loss, len(fitted.source), self.descent, pairs.seed)
        return network

    def build(self, dims: Dims) -> nn.Module:
        return ResidualMlp(dims, self.hidden)
