"""Logit difference inhibition: towards the old model, or towards an ensemble (ELODI)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hetero.objectives.congruent import Classifier, ClassifierTerm, OldClassifier
from hetero.objectives.references import References, ReferenceTerm
from hetero.objectives.task import Given, Need, Supervision, Task


def logit_inhibition(
    new: Tensor, reference: Tensor, power: float, threshold: float, top: int | None
) -> Tensor:
    """mean over images and classes of max(|new - reference| - threshold, 0)^power -> scalar.

    LDI of ELODI (Zhao et al., TPAMI 2024, arXiv 2205.06265). new, reference: logits float [N, C]. top: only
    the reference's so many highest logits of each image, as in ELODI top-k; None for all.
    """
    if top is not None and top < reference.shape[1]:
        chosen = reference.topk(top, dim=1).indices
        new, reference = new.gather(1, chosen), reference.gather(1, chosen)
    return F.relu((new - reference).abs() - threshold).pow(power).mean()


class LdiConfig(ClassifierTerm):
    """Classification, with large differences to the anchor's logits inhibited."""

    needs = frozenset({Need.LABELS, Need.VECTORS, Need.HEAD})
    source = "LDI with one teacher, ELODI, TPAMI 2024; threshold and share of its official code"
    term: Literal["ldi"] = "ldi"
    power: float = Field(default=2.0, ge=1)
    threshold: float = Field(default=0.5, ge=0, description="differences that are let be")
    top: int | None = Field(default=None, gt=0, description="only the reference's so many highest logits")
    share: float = Field(
        default=0.5, gt=0, lt=1, description="of the inhibition; the classification has the rest"
    )

    def build(self, given: Given) -> Task:
        return Ldi(self, given)


class Ldi(Classifier):
    """(1 - share) cross-entropy + share * `logit_inhibition` towards the anchor, on shared classes."""

    def __init__(self, config: LdiConfig, given: Given) -> None:
        super().__init__(config, given)
        self.config = config
        self.old = OldClassifier(config.term, given, config.scale)

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c, logits = self.config, self.logits(embeddings)
        shared = self.old.shared(logits, self.old(supervision.anchor))
        inhibited = logit_inhibition(*shared, c.power, c.threshold, c.top)
        return (1 - c.share) * self.classification(logits, supervision.labels) + c.share * inhibited


class ElodiConfig(ReferenceTerm):
    """Classification, with large differences to the mean logits of an ensemble inhibited."""

    needs = frozenset({Need.LABELS, Need.MODELS})
    source = "ELODI, TPAMI 2024; threshold and share of its official code, scale of this library"
    term: Literal["elodi"] = "elodi"
    power: float = Field(default=2.0, ge=1)
    threshold: float = Field(default=0.0, ge=0, description="differences that are let be")
    top: int | None = Field(default=None, gt=0, description="only the ensemble's so many highest logits")
    share: float = Field(
        default=0.8, gt=0, lt=1, description="of the inhibition; the classification has the rest"
    )

    def build(self, given: Given) -> Task:
        return Elodi(self, given)


class Elodi(Classifier):
    """(1 - share) cross-entropy + share * `logit_inhibition` towards the ensemble. No old model."""

    def __init__(self, config: ElodiConfig, given: Given) -> None:
        super().__init__(config, given)
        self.config = config
        self.references = References(config, given)

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c, logits = self.config, self.logits(embeddings)
        ensemble = self.references.logits(supervision)
        inhibited = logit_inhibition(logits, ensemble, c.power, c.threshold, c.top)
        return (1 - c.share) * self.classification(logits, supervision.labels) + c.share * inhibited
