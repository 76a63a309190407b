"""A change of basis with extra dimensions: BT2."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hetero.objectives.regression import cosine_regression
from hetero.objectives.softmax import margin_softmax, prototypes_of
from hetero.objectives.task import Given, Need, Supervision, Task, Term


class Bt2Weights(NamedTuple):
    """Of the paragon's features, the pseudo-classifier and the old features."""

    paragon: float = 1.0
    pseudo: float = 10.0
    old: float = 5.0


def orthonormal(square: Tensor) -> Tensor:
    """exp(P - P^T): an orthonormal [E, E] of any [E, E]."""
    basis: Tensor = torch.linalg.matrix_exp(square - square.T)
    return basis


def bt2(
    extended: Tensor,
    basis: Tensor,
    anchor: Tensor,
    labels: Tensor,
    head: Tensor,
    pseudo: Tensor,
    scale: float,
    weights: Bt2Weights,
    paragon: Tensor | None = None,
) -> Tensor:
    """CE(head, z B) + l1 (1 - cos(z B, paragon)) + l2 CE(pseudo, z_old) + l3 (1 - cos(z_old, anchor)).

    BT2 (Zhou et al., ICCV 2023), weights l = 1, 10, 5. z = [z_old, z_extra]: float [N, D + k], its first D
    dimensions are compared with the anchor; B: orthonormal [E, E], E = D + k, under which z holds what the
    classifier needs without giving up the old basis. anchor: unit float [N, D]; head: float [C, E];
    pseudo: float [C, D], the anchor's class means; paragon: unit float [N, E], features of an
    independently trained model, where there are any (else that term is left out).
    """
    old = F.normalize(extended[:, : anchor.shape[1]], dim=1)
    new = F.normalize(extended, dim=1) @ basis
    loss = (
        margin_softmax(new, head, labels, scale, 0.0)
        + weights.pseudo * margin_softmax(old, pseudo, labels, scale, 0.0)
        + weights.old * cosine_regression(old, anchor)
    )
    return loss if paragon is None else loss + weights.paragon * cosine_regression(new, paragon)


class BasisConfig(Term):
    """Extra dimensions and a learnt rotation, in which the student may classify as it likes.

    They serve the training and are dropped from the deployed student, which keeps the block that is
    comparable with the anchor. There are no paragon features in a run, so that part is left out.
    """

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "BT2, ICCV 2023; scale of this library"
    term: Literal["basis"] = "basis"
    extra: int = Field(default=32, gt=0, description="dimensions beside the anchor's")
    pseudo: float = Field(default=10.0, ge=0)
    old: float = Field(default=5.0, ge=0)
    scale: float = Field(default=24.0, gt=0)

    def build(self, given: Given) -> Task:
        return Basis(self, given)


class Basis(Task):
    """`bt2` with its rotation, extra dimensions, classifier and the anchor's class means."""

    def __init__(self, config: BasisConfig, given: Given) -> None:
        super().__init__()
        dim = given.dim + config.extra
        self.config = config
        self.extra = nn.Linear(given.dim, config.extra)
        self.square = nn.Parameter(torch.randn(dim, dim) / dim)
        self.prototypes = prototypes_of(given.classes, dim)
        self.register_buffer("pseudo", given.anchors().centres(given.classes), persistent=False)

    pseudo: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c = self.config
        weights = Bt2Weights(pseudo=c.pseudo, old=c.old)
        extended = torch.cat([embeddings, self.extra(embeddings)], 1)
        basis = orthonormal(self.square)
        return bt2(
            extended,
            basis,
            supervision.anchor,
            supervision.labels,
            self.prototypes,
            self.pseudo,
            c.scale,
            weights,
        )
