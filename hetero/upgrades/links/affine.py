"""An affine map by ridge regression, optionally of low rank."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hetero.upgrades.links.linear import centred, linear
from hetero.upgrades.links.method import Dims, Method, Pairs
from hetero_devices.errors import RecipeError


def ridge(source: Tensor, target: Tensor, penalty: float) -> Tensor:
    """argmin_W |X W - Y|_F^2 / N + penalty |W|_F^2: float64 [N, Ds], [N, Dt] -> [Ds, Dt].

    W = (X^T X / N + penalty I)^-1 X^T Y / N (Hoerl and Kennard, Technometrics 1970).
    """
    gram = source.T @ source / len(source)
    shrunk = gram + penalty * torch.eye(len(gram), dtype=gram.dtype)
    solution: Tensor = torch.linalg.solve(shrunk, source.T @ target / len(source))
    return solution


def reduced_rank(source: Tensor, weight: Tensor, penalty: float, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-r map for the same loss, as two factors [Ds, r], [r, Dt] of W V V^T.

    V: the first r right singular vectors of the fitted values, here of [X; sqrt(N penalty) I] W so that the
    penalty counts too (Izenman, 1975; Mukherjee and Zhu, 2011). weight: the ridge solution [Ds, Dt].
    """
    fitted_gram = weight.T @ (source.T @ source / len(source) @ weight + penalty * weight)
    _, vectors = torch.linalg.eigh(fitted_gram)  # ascending
    leading = vectors[:, -rank:].flip(1)
    return weight @ leading, leading.T


class Affine(Method):
    """Ridge regression of the target on the source: fits more than a rotation, and keeps no distances."""

    source = "ridge: Hoerl and Kennard, 1970; low rank: Drift-Adapter, EMNLP 2025"
    kind: Literal["affine"] = "affine"
    ridge: float = Field(default=1e-4, gt=0, description="penalty on squared weights, per pair")
    rank: int | None = Field(default=None, gt=0, description="of the map; full by default")

    def fit(self, pairs: Pairs) -> nn.Module:
        fitted = pairs.part(held=False)
        self._check(Dims(fitted.source.shape[1], fitted.target.shape[1]))
        (x, source_mean), (y, target_mean) = centred(fitted.source), centred(fitted.target)
        weight = ridge(x, y, self.ridge)
        if self.rank is None:
            return linear(weight, source_mean, target_mean)
        narrow, wide = reduced_rank(x, weight, self.ridge, self.rank)
        return nn.Sequential(
            linear(narrow, source_mean, x.new_zeros(self.rank)),
            linear(wide, x.new_zeros(self.rank), target_mean),
        )

    def build(self, dims: Dims) -> nn.Module:
        if self.rank is None:
            return nn.Linear(dims.source, dims.target)
        return nn.Sequential(nn.Linear(dims.source, self.rank), nn.Linear(self.rank, dims.target))

    def _check(self, dims: Dims) -> None:
        if self.rank is not None and self.rank > min(dims.source, dims.target):
            raise RecipeError(
                f"rank={self.rank} is more than a map from {dims.source} to {dims.target} dimensions has: "
                f"use at most {min(dims.source, dims.target)}"
            )
