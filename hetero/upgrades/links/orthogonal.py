"""The lambda-orthogonal map: an affine one that may leave the orthogonal ones by so much and no more."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hetero.objectives.contrastive import cross_supcon
from hetero.upgrades.links.descent import DescentConfig, descend
from hetero.upgrades.links.method import Dims, Method, Pairs
from hetero.upgrades.links.procrustes import rotation_layer


def orthogonality_gap(weight: Tensor) -> Tensor:
    """|W W^T - I|_F of float [Dt, Ds]; of W^T W, the smaller product, where Dt > Ds."""
    gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    gap: Tensor = ((gram - torch.eye(len(gram), dtype=gram.dtype)).pow(2).sum() + 1e-12).sqrt()
    return gap


def orthogonality_penalty(weight: Tensor, threshold: float, sharpness: float) -> Tensor:
    """sigma(sharpness (gap - threshold)) * gap: nearly free below the threshold, the gap itself above."""
    gap = orthogonality_gap(weight)
    return torch.sigmoid(sharpness * (gap - threshold)) * gap


class LambdaOrthogonal(Method):
    """From the Procrustes rotation, descent on |B(x) - y|^2 + contrast * SupCon + the penalty.

    The backward map B of the paper by itself: without the forward map of the gallery, that is without the
    terms in which F stands. contrast: weight of the supervised contrast from B(x) to y.
    """

    source = "lambda-Orthogonality, NeurIPS 2025; threshold as there, sharpness and steps of this library"
    kind: Literal["lambda_orthogonal"] = "lambda_orthogonal"
    threshold: float = Field(default=12.0, ge=0, description="lambda")
    sharpness: float = Field(default=10.0, gt=0, description="alpha")
    penalty: float = Field(default=1.0, ge=0, description="weight of the penalty")
    contrast: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.1, gt=0, description="of the contrast")
    descent: DescentConfig = DescentConfig()

    def fit(self, pairs: Pairs) -> nn.Module:
        fitted = pairs.part(held=False)
        layer = rotation_layer(fitted.source, fitted.target).requires_grad_(True)

        def loss(rows: Tensor) -> Tensor:
            mapped, target = layer(fitted.source[rows]), fitted.target[rows]
            value: Tensor = (mapped - target).pow(2).sum(1).mean()
            value = value + self.penalty * orthogonality_penalty(layer.weight, self.threshold, self.sharpness)
            if not self.contrast:
                return value
            unit = F.normalize(mapped, dim=1)
            return value + self.contrast * cross_supcon(unit, target, fitted.labels[rows], self.temperature)

        descend(layer, loss, len(fitted.source), self.descent, pairs.seed)
        return layer

    def build(self, dims: Dims) -> nn.Module:
        return nn.Linear(dims.source, dims.target)
