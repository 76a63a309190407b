"""Contrast across models: the student as query, the anchor's vectors as positives and negatives."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hetero.objectives.task import Given, Need, Pure, Supervision, Task, Term

_NEVER = float("-inf")


def distances(left: Tensor, right: Tensor) -> Tensor:
    """Euclidean distances of unit vectors [N, D], [M, D] -> [N, M]; smooth at zero."""
    return (2 - 2 * left @ right.T).clamp(min=1e-12).sqrt()


def same_class(labels: Tensor) -> Tensor:
    """int64 [N] -> bool [N, N]."""
    return labels[:, None] == labels[None, :]


def aml_contrastive(student: Tensor, anchor: Tensor, labels: Tensor, margin: float, negatives: int) -> Tensor:
    """mean_i [ mean_{p: y_p = y_i} d(s_i, a_p)^2 / 2 + sum_{n hardest} max(0, m - d(s_i, a_n))^2 / 2 ].

    The asymmetric contrastive loss of AML (Budnik & Avrithis, CVPR 2021): only the student is trained,
    positives and negatives are the anchor's vectors. The `negatives` nearest anchors of other classes
    in the batch stand for the mined tuples of the official code. student, anchor: unit float [N, D].
    """
    same, d = same_class(labels), distances(student, anchor)
    pulled = (d.pow(2) / 2 * same).sum(1) / same.sum(1)
    hardest = d.masked_fill(same, float("inf")).topk(min(negatives, len(d)), largest=False).values
    return (pulled + (margin - hardest).clamp(min=0).pow(2).sum(1) / 2).mean()


def aml_triplet(student: Tensor, anchor: Tensor, labels: Tensor, margin: float, negatives: int) -> Tensor:
    """mean_i sum_{n hardest} max(0, m + mean_p d(s_i, a_p)^2 - d(s_i, a_n)^2).

    The asymmetric triplet loss of AML (CVPR 2021), squared distances as in its official code.
    student, anchor: unit float [N, D]; labels: int64 [N].
    """
    same, d = same_class(labels), distances(student, anchor).pow(2)
    positive = (d * same).sum(1, keepdim=True) / same.sum(1, keepdim=True)
    hardest = d.masked_fill(same, float("inf")).topk(min(negatives, len(d)), largest=False).values
    return (margin + positive - hardest).clamp(min=0).sum(1).mean()


def cross_supcon(student: Tensor, anchor: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """-mean_i mean_{p: y_p = y_i} log softmax_j( <s_i, a_j> / t )[p].

    Supervised contrast (Khosla et al., NeurIPS 2020, eq. 2) from student to anchor: `--contra` of openBCT.
    student, anchor: unit float [N, D]; labels: int64 [N]. The own anchor vector is one of the positives.
    """
    return supcon_by_query(student, anchor, labels, temperature).mean()


def supcon_by_query(student: Tensor, anchor: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """`cross_supcon` before the mean: float [N], one value a query."""
    same = same_class(labels)
    likelihood = F.log_softmax(student @ anchor.T / temperature, 1)
    return -(likelihood * same).sum(1) / same.sum(1)


def info_nce(
    student: Tensor,
    anchor: Tensor,
    temperature: float,
    queue: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    """-mean_i log( exp(<s_i, a_i>/t) / (sum_j exp(<s_i, a_j>/t) + sum_k exp(<s_i, q_k>/t)) ).

    InfoNCE (van den Oord et al., 2018) to the anchor, with the memory queue of MoCo (He et al., CVPR 2020)
    holding earlier anchor vectors. student, anchor: unit float [N, D]; queue: unit float [K, D];
    hidden: bool [N, K], queue entries that are no negatives of a row. Label-free.
    """
    logits = student @ anchor.T / temperature
    if queue is not None:
        others = student @ queue.T / temperature
        logits = torch.cat([logits, others if hidden is None else others.masked_fill(hidden, _NEVER)], 1)
    return F.cross_entropy(logits, torch.arange(len(student), device=student.device))


def ract(student: Tensor, anchor: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """-mean_i log( e(s_i, a_i) / (e(s_i, a_i) + sum_{j: y_j != y_i} [e(s_i, a_j) + e(s_i, s_j)]) ).

    e(x, y) = exp(<x, y> / t). RACT's regression-alleviating loss (Zhang et al., ICLR 2022): new-to-old
    positives must beat new-to-old and new-to-new negatives. student, anchor: unit float [N, D].
    """
    same = same_class(labels)
    positive = (student * anchor).sum(1, keepdim=True)
    negatives = [(student @ other.T).masked_fill(same, _NEVER) for other in (anchor, student)]
    logits = torch.cat([positive, *negatives], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(student), dtype=torch.int64, device=student.device))


class AmlContrastiveConfig(Term):
    """Student against the anchor's positives and hardest negatives, contrastive form."""

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "AML, CVPR 2021; margin and negatives as in the official code"
    term: Literal["aml_contrastive"] = "aml_contrastive"
    margin: float = Field(default=0.7, gt=0, lt=2)
    negatives: int = Field(default=5, gt=0)

    def build(self, given: Given) -> Task:
        return Pure(lambda z, b: aml_contrastive(z, b.anchor, b.labels, self.margin, self.negatives))


class AmlTripletConfig(Term):
    """Student against the anchor's positives and hardest negatives, triplet form."""

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "AML, CVPR 2021; margin as in the official code"
    term: Literal["aml_triplet"] = "aml_triplet"
    margin: float = Field(default=0.1, gt=0, lt=4)
    negatives: int = Field(default=5, gt=0)

    def build(self, given: Given) -> Task:
        return Pure(lambda z, b: aml_triplet(z, b.anchor, b.labels, self.margin, self.negatives))


class CrossSupConConfig(Term):
    """Supervised contrast from the student to the anchor's vectors of the batch."""

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "openBCT --contra"
    term: Literal["cross_supcon"] = "cross_supcon"
    temperature: float = Field(default=0.05, gt=0)

    def build(self, given: Given) -> Task:
        return Pure(lambda z, b: cross_supcon(z, b.anchor, b.labels, self.temperature))


class RactConfig(Term):
    """New-to-old positives above new-to-old and new-to-new negatives."""

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "RACT, ICLR 2022; temperature as in AdvBCT's re-implementation"
    term: Literal["ract"] = "ract"
    temperature: float = Field(default=0.01, gt=0)

    def build(self, given: Given) -> Task:
        return Pure(lambda z, b: ract(z, b.anchor, b.labels, self.temperature))


class InfoNceConfig(Term):
    """The own anchor vector against all others, of the batch and of a queue of earlier batches."""

    needs = frozenset({Need.VECTORS})
    source = "InfoNCE, 2018; queue of MoCo, CVPR 2020"
    term: Literal["info_nce"] = "info_nce"
    temperature: float = Field(default=0.07, gt=0)
    queue: int = Field(default=4096, ge=0, description="earlier anchor vectors kept as negatives")

    def build(self, given: Given) -> Task:
        if not self.queue:
            return Pure(lambda z, b: info_nce(z, b.anchor, self.temperature))
        return QueuedInfoNce(self, given.dim)


class QueuedInfoNce(Task):
    """`info_nce` with a ring of anchor vectors, which is part of the checkpoint."""

    def __init__(self, config: InfoNceConfig, dim: int) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.register_buffer("vectors", torch.zeros(config.queue, dim))
        self.register_buffer("items", torch.full((config.queue,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    vectors: Tensor
    items: Tensor
    place: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        assert supervision.items is not None
        own = supervision.items[:, None] == self.items[None, :]  # the same image, seen earlier
        hidden = own | (self.items < 0)
        loss = info_nce(
            embeddings, supervision.anchor, self.temperature, self.vectors.to(embeddings.dtype), hidden
        )
        if self.training:
            self._push(supervision.anchor, supervision.items)
        return loss

    @torch.no_grad()
    def _push(self, vectors: Tensor, items: Tensor) -> None:
        vectors, items = vectors[-len(self.vectors) :], items[-len(self.vectors) :]
        places = (self.place + torch.arange(len(items), device=items.device)) % len(self.vectors)
        # Copies, not in place: the loss that was just computed still needs the old ones to differentiate.
        self.vectors = self.vectors.index_copy(0, places, vectors.to(self.vectors.dtype))
        self.items = self.items.index_copy(0, places, items)
        self.place = (self.place + len(items)) % len(self.vectors)
