"""Orthogonal Procrustes: the rotation that turns one space onto another."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hetero.upgrades.links.linear import centred, linear
from hetero.upgrades.links.method import Dims, Method, Pairs


def procrustes(source: Tensor, target: Tensor) -> Tensor:
    """argmax_R tr(R^T X^T Y) over R with orthonormal rows or columns: float [N, Ds], [N, Dt] -> [Ds, Dt].

    R = U V^T of the SVD X^T Y = U S V^T (Schoenemann, Psychometrika 1966). For Ds <= Dt this is also the
    minimiser of |X R - Y|_F; for Ds > Dt, where R must drop dimensions, it is the R of largest summed
    inner products, which is what search compares.
    """
    u, _, vh = torch.linalg.svd(source.T @ target, full_matrices=False)
    rotation: Tensor = u @ vh
    return rotation


class Procrustes(Method):
    """Centre both sides, rotate, and put back the target's mean: distances within the source are kept."""

    source = "Schoenemann, 1966; centred as by Maystre et al., arXiv 2510.13406"
    kind: Literal["procrustes"] = "procrustes"
    centred: bool = Field(default=True, description="take the means of both sides out first")

    def fit(self, pairs: Pairs) -> nn.Module:
        fitted = pairs.part(held=False)
        return rotation_layer(fitted.source, fitted.target, self.centred)

    def build(self, dims: Dims) -> nn.Module:
        return nn.Linear(dims.source, dims.target)


def rotation_layer(source: Tensor, target: Tensor, centre: bool = True) -> nn.Linear:
    """The fitted rotation of unit float [N, Ds] onto [N, Dt] as a linear layer."""
    if centre:
        (x, source_mean), (y, target_mean) = centred(source), centred(target)
    else:
        x, y = source.double(), target.double()
        source_mean, target_mean = x.new_zeros(x.shape[1]), y.new_zeros(y.shape[1])
    return linear(procrustes(x, y), source_mean, target_mean)
