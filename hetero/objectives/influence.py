"""Backward-compatible training as published: an own classifier, and the old one's influence."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hetero.objectives.heads import synthesised_prototypes
from hetero.objectives.softmax import margin_softmax, prototypes_of
from hetero.objectives.task import Given, Need, Supervision, Task, Term


def influence(features: Tensor, frozen: Tensor, rows: Tensor) -> Tensor:
    """Mean cross entropy of the frozen classifier over the samples of classes it knows -> scalar.

    BCT's influence loss (Shen et al., CVPR 2020, eq. 3) with T_BCT = T_old. features: float [N, D];
    frozen: float [S, D]; rows: int64 [N], which of its classes each sample is of, -1 for none. Zero where a
    batch holds no such sample.
    """
    known = rows >= 0
    if not bool(known.any()):
        return features.sum() * 0
    return F.cross_entropy(features[known] @ frozen.T, rows[known])


def rows_of(seen: Tensor, classes: int) -> Tensor:
    """The head's row of every training class, int64 [classes], -1 where it has none.

    seen: int64 [S], which training class each row stands for, or -1.
    """
    rows = torch.full((classes,), -1, dtype=torch.int64)
    known = seen >= 0
    rows[seen[known]] = torch.arange(len(seen))[known]
    return rows


class BctConfig(Term):
    """An own classifier over all classes, beside the anchor's frozen one over those it knows.

    The anchor may know fewer classes than the data, or others. normalised: cosines times `scale`, for which
    openBCT reports far better compatibility; otherwise the embedding's length is free, as first published.
    unseen: images of classes that the anchor does not know are left out of the influence, or get the mean of
    the anchor's vectors of their class as a synthesised prototype.
    """

    needs = frozenset({Need.LABELS, Need.HEAD})
    source = "BCT, CVPR 2020, eq. 3; normalised as in openBCT; scale of this library"
    term: Literal["bct"] = "bct"
    influence: float = Field(default=1.0, gt=0, description="weight of the frozen classifier; lambda")
    normalised: bool = True
    unseen: Literal["left_out", "synthesised"] = "left_out"
    scale: float = Field(default=24.0, gt=0)
    margin: float = Field(default=0.0, ge=0, lt=1, description="of the own classifier, where normalised")

    def build(self, given: Given) -> Task:
        assert given.head is not None  # refused before
        if self.unseen == "left_out":
            return Bct(self, given, F.normalize(given.head, dim=1), rows_of(given.seen, given.classes))
        known, seen = given.anchors(), given.seen
        head, seen = given.head[seen >= 0], seen[seen >= 0]
        frozen = synthesised_prototypes(known.vectors, known.labels, given.classes, head, seen)
        return Bct(self, given, frozen, torch.arange(given.classes))


class Bct(Task):
    """Both classifiers; only the own one is trained and saved."""

    def __init__(self, config: BctConfig, given: Given, frozen: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.config = config
        self.prototypes = prototypes_of(given.classes, given.dim)
        self.register_buffer("frozen", frozen, persistent=False)
        self.register_buffer("rows", rows, persistent=False)

    frozen: Tensor
    rows: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c, labels = self.config, supervision.labels
        if c.normalised:
            own = margin_softmax(embeddings, self.prototypes, labels, c.scale, c.margin)
            return own + c.influence * influence(c.scale * embeddings, self.frozen, self.rows[labels])
        assert supervision.raw is not None  # the loop gives it
        raw = supervision.raw.to(embeddings.dtype)
        own = F.cross_entropy(raw @ self.prototypes.T, labels)
        return own + c.influence * influence(raw, self.frozen, self.rows[labels])

    def head(self) -> Tensor:
        return self.prototypes.detach()
