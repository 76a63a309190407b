"""Forward-compatible training: the gallery's old vectors, helped by side information, become new ones."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hetero.upgrades.links.descent import DescentConfig, descend, seeded
from hetero.upgrades.links.method import Dims, Method, Pairs, Side


class TwoTowers(nn.Module):
    """h(old, side): a tower for each, and a mixer over both; float32 [N, Ds], [N, Dc] -> float32 [N, Dt]."""

    def __init__(self, dims: Dims, hidden: int, mixer: int) -> None:
        super().__init__()
        self.old = nn.Linear(dims.source, hidden)
        self.side = nn.Linear(dims.companion, hidden)
        self.mixer = nn.Linear(2 * hidden, mixer)
        self.out = nn.Linear(mixer, dims.target)

    def forward(self, old: Tensor, side: Tensor) -> Tensor:
        # Unit vectors of D dimensions have entries of about D^-1/2; layers are initialised for about 1.
        towers = [layer(x * x.shape[1] ** 0.5) for layer, x in ((self.old, old), (self.side, side))]
        mixed: Tensor = self.out(F.relu(self.mixer(F.relu(torch.cat(towers, 1)))))
        return mixed


class Fct(Method):
    """h(old vector, side information) -> new vector, by squared error; the new model stays as it is.

    Side information is any vector that was stored beside the old one when the image was indexed, of a
    model that both generations know: self-supervised features in the paper. Without any, use 'mlp'.
    """

    sides: ClassVar[tuple[Side, ...]] = ("gallery",)
    companion: ClassVar[str | None] = "the side information"
    exports: ClassVar[bool] = False
    source = "FCT, CVPR 2022; widths and steps of this library (theirs: mixer 2048, 80 epochs)"
    kind: Literal["fct"] = "fct"
    hidden: int = Field(default=256, gt=0, description="width of each tower")
    mixer: int = Field(default=512, gt=0)
    descent: DescentConfig = DescentConfig(rate=5e-4, steps=3000)

    def fit(self, pairs: Pairs) -> nn.Module:
        fitted = pairs.part(held=False)
        side = fitted.companion
        assert side is not None  # refused before the fit
        dims = Dims(fitted.source.shape[1], fitted.target.shape[1], side.shape[1])
        network = seeded(pairs.seed, lambda: self.build(dims))

        def loss(rows: Tensor) -> Tensor:
            found: Tensor = network(fitted.source[rows], side[rows])
            return (found - fitted.target[rows]).pow(2).sum(1).mean()

        descend(network, loss, len(fitted.source), self.descent, pairs.seed)
        return network

    def build(self, dims: Dims) -> nn.Module:
        return TwoTowers(dims, self.hidden, self.mixer)
