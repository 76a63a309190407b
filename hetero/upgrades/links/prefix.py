"""The first dimensions of a space that extends another: nothing is fitted, training has made them fit."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from hetero.upgrades.links.method import Dims, Method, Pairs
from hetero_devices.errors import RecipeError


class First(nn.Module):
    """float32 [N, Ds] -> its first `dim` dimensions, float32 [N, dim]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.dim]


class Prefix(Method):
    """From an extended space into the one it extends (`student.dimension=extended`).

    Between any other two spaces it finds nothing: look at the link's cosine.
    """

    source = "BCT, Shen et al., CVPR 2020, official code"
    kind: Literal["prefix"] = "prefix"

    def fit(self, pairs: Pairs) -> nn.Module:
        source, target = pairs.source.shape[1], pairs.target.shape[1]
        return self.build(Dims(source, target))

    def build(self, dims: Dims) -> nn.Module:
        if dims.source <= dims.target:
            raise RecipeError(
                f"a space of {dims.source} dimensions does not extend one of {dims.target}: use another link"
            )
        return First(dims.target)
