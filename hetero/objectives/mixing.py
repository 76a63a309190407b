"""Old and new features in one classification: MixBCT."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hetero.objectives.softmax import arc_softmax, prototypes_of
from hetero.objectives.task import Given, Need, Reference, Supervision, Task, Term


def mixed_softmax(
    student: Tensor,
    anchor: Tensor,
    replaced: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    scale: float,
    margin: float,
) -> Tensor:
    """ArcFace over a batch in which some of the student's embeddings are replaced by the anchor's -> scalar.

    MixBCT (Liang et al., arXiv 2308.06948) as in its official code: one classifier must serve both models.
    student, anchor: unit float [N, D]; replaced: bool [N]; prototypes: float [C, D]; labels: int64 [N].
    """
    features = torch.where(replaced[:, None], anchor, student)
    return arc_softmax(features, prototypes, labels, scale, margin)


def credible(known: Reference, classes: int, share: float) -> Tensor:
    """bool [M]: the `share` of every class' items that lie closest to its centre (MixBCT's denoising)."""
    cosines = (known.vectors * known.centres(classes)[known.labels]).sum(1)
    order = torch.argsort(cosines, descending=True, stable=True)
    order = order[torch.argsort(known.labels[order], stable=True)]  # by class, closest first
    counts = torch.bincount(known.labels, minlength=classes)
    first = counts.cumsum(0) - counts
    grouped = known.labels[order]
    rank = torch.arange(len(order)) - first[grouped]
    mask = torch.empty(len(order), dtype=torch.bool)
    mask[order] = rank < (share * counts[grouped]).ceil()
    return mask


class MixedConfig(Term):
    """One ArcFace classification of the student's embeddings mixed with credible ones of the anchor."""

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "MixBCT, arXiv 2308.06948; constants of its official code"
    term: Literal["mixed"] = "mixed"
    ratio: float = Field(default=0.3, gt=0, lt=1, description="share of the batch that is the anchor's")
    credible: float = Field(default=0.9, gt=0, le=1, description="share of a class closest to its centre")
    scale: float = Field(default=64.0, gt=0)
    margin: float = Field(default=0.5, ge=0, lt=1, description="radians")

    def build(self, given: Given) -> Task:
        return Mixed(self, given)


class Mixed(Task):
    """`mixed_softmax` with its classifier and the list of credible items."""

    def __init__(self, config: MixedConfig, given: Given) -> None:
        super().__init__()
        self.config = config
        self.prototypes = prototypes_of(given.classes, given.dim)
        mask = credible(given.anchors(), given.classes, config.credible)
        self.register_buffer("credible", mask, persistent=False)

    credible: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c, anchor = self.config, supervision.anchor
        replaced = self._chosen(supervision)
        return mixed_softmax(
            embeddings, anchor, replaced, self.prototypes, supervision.labels, c.scale, c.margin
        )

    def _chosen(self, supervision: Supervision) -> Tensor:
        """bool [N]: drawn from torch's global generator, which the loop seeds at every step."""
        assert supervision.items is not None
        candidates = self.credible[supervision.items].nonzero()[:, 0]
        count = min(len(candidates), int(self.config.ratio * len(supervision.items)))
        order = torch.randperm(len(candidates)).to(candidates.device)
        chosen = torch.zeros_like(supervision.items, dtype=torch.bool)
        return chosen.index_fill(0, candidates[order[:count]], True)
