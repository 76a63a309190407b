"""Classification over class prototypes on the unit sphere."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hetero.objectives.task import Given, Need, Supervision, Task, Term

_EDGE = 1e-6  # the arc cosine has no finite slope at +-1


def margin_softmax(
    embeddings: Tensor, prototypes: Tensor, labels: Tensor, scale: float, margin: float
) -> Tensor:
    """Large-margin cosine loss (CosFace: Wang et al., CVPR 2018, eq. 4) -> scalar.

    -mean_i log softmax_j( scale * (<z_i, w_j> - margin * [j = y_i]) )[y_i]

    embeddings: unit float [N, D]; prototypes: float [C, D], normalised here; labels: int64 [N] in 0..C-1.
    With the anchor's prototypes, frozen, this is BCT's influence loss (Shen et al., CVPR 2020, eq. 3)
    with a normalised classifier, and the frozen-head term of HVS (Duggal et al., CVPR 2021).
    """
    cosines = embeddings @ F.normalize(prototypes, dim=1).T  # [N, C]
    return F.cross_entropy(scale * (cosines - margin * F.one_hot(labels, len(prototypes))), labels)


def arc_softmax(
    embeddings: Tensor, prototypes: Tensor, labels: Tensor, scale: float, margin: float
) -> Tensor:
    """Additive angular margin loss (ArcFace: Deng et al., CVPR 2019, eq. 3) -> scalar.

    As `margin_softmax`, with cos(angle(z_i, w_y) + margin) for the own class; where that would pass the
    opposite point the margin is left out, as in the official code of SSP. margin: radians.
    """
    cosines = embeddings @ F.normalize(prototypes, dim=1).T  # [N, C]
    angles = cosines.gather(1, labels[:, None]).clamp(_EDGE - 1, 1 - _EDGE).arccos()  # [N, 1]
    angles = torch.where(angles < math.pi - margin, angles + margin, angles)
    return F.cross_entropy(scale * cosines.scatter(1, labels[:, None], angles.cos()), labels)


def prototypes_of(classes: int, dim: int) -> nn.Parameter:
    """Freshly drawn prototypes float32 [C, D], of about unit norm."""
    return nn.Parameter(torch.randn(classes, dim) / dim**0.5)


class MarginSoftmaxConfig(Term):
    """Classification with an own, trained head: how an anchor, or a student alone, is trained."""

    needs = frozenset({Need.LABELS})
    source = "CosFace, CVPR 2018; scale and margin are this library's"
    term: Literal["margin_softmax"] = "margin_softmax"
    scale: float = Field(default=24.0, gt=0)
    margin: float = Field(default=0.2, ge=0, lt=1)

    def build(self, given: Given) -> Task:
        return MarginSoftmax(self, given.classes, given.dim)


class MarginSoftmax(Task):
    """`margin_softmax` with its prototypes."""

    def __init__(self, config: MarginSoftmaxConfig, classes: int, dim: int) -> None:
        super().__init__()
        self.prototypes = prototypes_of(classes, dim)
        self.scale, self.margin = config.scale, config.margin

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        return margin_softmax(embeddings, self.prototypes, supervision.labels, self.scale, self.margin)

    def head(self) -> Tensor:
        return self.prototypes.detach()
