"""Terms around the anchor's classifier: frozen, synthesised, softened, or beside an own one."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hetero.objectives.softmax import arc_softmax, margin_softmax
from hetero.objectives.task import Given, Need, Supervision, Task, Term, class_centres


def synthesised_prototypes(
    vectors: Tensor, labels: Tensor, classes: int, head: Tensor | None = None, seen: Tensor | None = None
) -> Tensor:
    """A classifier for classes the anchor may never have seen -> unit float [C, D].

    Class c gets the mean of the anchor's vectors of its images (BCT, Shen et al., CVPR 2020:
    "synthesised classifier weights"); the classes in `seen` keep the anchor's own prototypes.

    vectors: unit float [M, D]; labels: int64 [M] in 0..C-1; head: float [S, D] with its classes, int64 [S].
    """
    prototypes = class_centres(vectors, labels, classes)
    if head is not None and seen is not None:
        prototypes[seen] = F.normalize(head, dim=1)
    return prototypes


def soft_head(student: Tensor, anchor: Tensor, prototypes: Tensor, scale: float) -> Tensor:
    """mean_i KL( softmax(scale * W a_i) || softmax(scale * W s_i) ), W the anchor's frozen prototypes.

    The label-free influence loss: BCT's knowledge-distillation variant (CVPR 2020), `--lwf` in
    openBCT, with a normalised classifier. student, anchor: unit float [N, D]; prototypes: float [C, D].
    """
    unit = F.normalize(prototypes, dim=1).T
    expected, found = (F.log_softmax(scale * z @ unit, 1) for z in (anchor, student))
    return F.kl_div(found, expected, reduction="batchmean", log_target=True)


def composite_head(
    student: Tensor,
    own: Tensor,
    frozen: Tensor,
    labels: Tensor,
    weights: tuple[float, float],
    scale: float,
    margin: float,
) -> Tensor:
    """l1 * ArcFace(student, own) + l2 * ArcFace(student, frozen) -> scalar.

    HVS's composite loss (Duggal et al., CVPR 2021, weight-level compatibility) in the form of the official
    code of SSP, which trains it as a baseline. student: unit float [N, D]; own, frozen: float [C, D].
    """
    terms = (arc_softmax(student, head, labels, scale, margin) for head in (own, frozen))
    return sum((w * loss for w, loss in zip(weights, terms, strict=True)), start=student.new_zeros(()))


class FrozenHeadConfig(Term):
    """Classification by the anchor's frozen prototypes: BCT's influence loss."""

    needs = frozenset({Need.LABELS, Need.HEAD})
    source = "BCT, CVPR 2020, eq. 3"
    term: Literal["frozen_head"] = "frozen_head"
    scale: float = Field(default=24.0, gt=0)
    margin: float = Field(default=0.0, ge=0, lt=1)

    def build(self, given: Given) -> Task:
        return FrozenHead(given.head_of(self.term), self.scale, self.margin)


class SynthesisedHeadConfig(Term):
    """Classification by the anchor's class means: the influence loss for classes it never saw."""

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "BCT, CVPR 2020"
    term: Literal["synthesised_head"] = "synthesised_head"
    scale: float = Field(default=24.0, gt=0)
    margin: float = Field(default=0.0, ge=0, lt=1)

    def build(self, given: Given) -> Task:
        known = given.anchors()
        head = synthesised_prototypes(known.vectors, known.labels, given.classes)
        return FrozenHead(head, self.scale, self.margin)


class FrozenHead(Task):
    """`margin_softmax` over prototypes that stay as they are; they are the anchor's, so not saved."""

    def __init__(self, prototypes: Tensor, scale: float, margin: float) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes, persistent=False)
        self.scale, self.margin = scale, margin

    prototypes: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        return margin_softmax(embeddings, self.prototypes, supervision.labels, self.scale, self.margin)


class SoftHeadConfig(Term):
    """The anchor's own class probabilities as soft targets over its frozen prototypes."""

    needs = frozenset({Need.VECTORS, Need.HEAD})
    source = "BCT, CVPR 2020; openBCT --lwf"
    term: Literal["soft_head"] = "soft_head"
    scale: float = Field(default=24.0, gt=0)

    def build(self, given: Given) -> Task:
        assert given.head is not None  # refused before; its classes need not be those of the data
        return SoftHead(given.head, self.scale)


class SoftHead(Task):
    """`soft_head` with the anchor's prototypes."""

    def __init__(self, prototypes: Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes, persistent=False)
        self.scale = scale

    prototypes: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        return soft_head(embeddings, supervision.anchor, self.prototypes, self.scale)


class CompositeHeadConfig(Term):
    """An own head, begun at the anchor's, beside the anchor's frozen one."""

    needs = frozenset({Need.LABELS, Need.HEAD})
    source = "HVS, CVPR 2021; scale and margin as in the official code of SSP"
    term: Literal["composite_head"] = "composite_head"
    own: float = Field(default=1.0, ge=0, description="weight of the own head")
    frozen: float = Field(default=1.0, gt=0, description="weight of the anchor's head")
    scale: float = Field(default=45.25, gt=0, description="the square root of their 2048 dimensions")
    margin: float = Field(default=0.15, ge=0, lt=1, description="radians")

    def build(self, given: Given) -> Task:
        return CompositeHead(self, given.head_of(self.term))


class CompositeHead(Task):
    """`composite_head` with both classifiers."""

    def __init__(self, config: CompositeHeadConfig, head: Tensor) -> None:
        super().__init__()
        self.config = config
        self.own = nn.Parameter(head.clone())
        self.register_buffer("frozen", head, persistent=False)

    frozen: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c = self.config
        weights = (c.own, c.frozen)
        return composite_head(
            embeddings, self.own, self.frozen, supervision.labels, weights, c.scale, c.margin
        )
