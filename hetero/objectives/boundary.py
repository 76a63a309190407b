"""The anchor's classes as centres with a boundary: LCE and AdvBCT's elastic boundary."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hetero.objectives.softmax import margin_softmax, prototypes_of
from hetero.objectives.task import Given, Need, Supervision, Task, Term


def class_extents(vectors: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """The smallest cosine of a class' vectors to its centre: unit [M, D], int64 [M], unit [C, D] -> [C]."""
    cosines = (vectors * centres[labels]).sum(1)
    return cosines.new_ones(len(centres)).scatter_reduce(0, labels, cosines, "amin")


def centre_alignment(prototypes: Tensor, centres: Tensor) -> Tensor:
    """Mean squared difference of the unit prototypes and the anchor's centres, float [C, D] both -> scalar.

    The alignment term of LCE (Meng et al., ICCV 2021) without its transformation, as in its official code.
    """
    return F.mse_loss(F.normalize(prototypes, dim=1), centres)


def boundary_excess(student: Tensor, labels: Tensor, centres: Tensor, extents: Tensor) -> Tensor:
    """mean_i max(0, extent[y_i] - <s_i, centre[y_i]>): how far the student leaves the anchor's class.

    The boundary term of LCE (ICCV 2021), as in its official code: new classes must be no wider than old ones.
    student: unit float [N, D]; centres: unit float [C, D]; extents: float [C], smallest cosine of a class.
    """
    return (extents[labels] - (student * centres[labels]).sum(1)).clamp(min=0).mean()


def elastic_boundary(
    student: Tensor, labels: Tensor, centres: Tensor, radii: Tensor, stretch: Tensor, threshold: float
) -> Tensor:
    """mean over violating i of max(0, |s_i - c_y| - r_y), r = radius + sigmoid(stretch) (threshold - radius).

    The elastic boundary of AdvBCT (Pan et al., CVPR 2023) as in its official code: every class' radius moves
    from the anchor's towards `threshold` by a learnt share. Its adversarial discriminator is not part.
    student: unit float [N, D]; centres: unit float [C, D]; radii, stretch: float [C].
    """
    elastic = radii + torch.sigmoid(stretch) * (threshold - radii)
    away = ((student - centres[labels]).pow(2).sum(1) + 1e-12).sqrt()
    excess = (away - elastic[labels]).clamp(min=0)
    return excess.sum() / (excess > 0).sum().clamp(min=1)


class LceConfig(Term):
    """An own head aligned with the anchor's class centres, and features inside the anchor's classes."""

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "LCE, ICCV 2021; weights of its official code, scale and margin of this library"
    term: Literal["lce"] = "lce"
    align: float = Field(default=100.0, ge=0)
    boundary: float = Field(default=1.0, ge=0)
    scale: float = Field(default=24.0, gt=0)
    margin: float = Field(default=0.2, ge=0, lt=1)

    def build(self, given: Given) -> Task:
        return Lce(self, given)


class Lce(Task):
    """Classification by an own head, `centre_alignment` and `boundary_excess`."""

    def __init__(self, config: LceConfig, given: Given) -> None:
        super().__init__()
        known = given.anchors()
        centres = known.centres(given.classes)
        self.config = config
        self.prototypes = prototypes_of(given.classes, given.dim)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("extents", class_extents(known.vectors, known.labels, centres), persistent=False)

    centres: Tensor
    extents: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c, labels = self.config, supervision.labels
        return (
            margin_softmax(embeddings, self.prototypes, labels, c.scale, c.margin)
            + c.align * centre_alignment(self.prototypes, self.centres)
            + c.boundary * boundary_excess(embeddings, labels, self.centres, self.extents)
        )


class ElasticBoundaryConfig(Term):
    """Features inside the anchor's classes, whose radii may stretch; combine it with a classification."""

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "AdvBCT, CVPR 2023, without the discriminator; threshold of its official code"
    term: Literal["elastic_boundary"] = "elastic_boundary"
    threshold: float = Field(default=0.5, gt=0, lt=2)

    def build(self, given: Given) -> Task:
        return ElasticBoundary(self, given)


class ElasticBoundary(Task):
    """`elastic_boundary` with its learnt share a class."""

    def __init__(self, config: ElasticBoundaryConfig, given: Given) -> None:
        super().__init__()
        known = given.anchors()
        centres = known.centres(given.classes)
        extents = class_extents(known.vectors, known.labels, centres)
        self.threshold = config.threshold
        self.stretch = nn.Parameter(torch.empty(given.classes).uniform_(-1, 1))
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("radii", (2 - 2 * extents).clamp(min=0).sqrt(), persistent=False)

    centres: Tensor
    radii: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        return elastic_boundary(
            embeddings, supervision.labels, self.centres, self.radii, self.stretch, self.threshold
        )
