"""Margin-preserving training: old margins kept by a calibrated classification and two teachers (MPT)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from hetero.objectives.congruent import (
    Classifier,
    OldClassifier,
    answered_right,
    calibrated,
    focal_distance,
)
from hetero.objectives.focal import focal_weights
from hetero.objectives.references import References, ReferenceTerm
from hetero.objectives.task import Given, Need, Supervision, Task


class MptConfig(ReferenceTerm):
    """Classification with a bias on new classes, distilled from the anchor and a new model trained alone."""

    needs = frozenset({Need.LABELS, Need.VECTORS, Need.HEAD, Need.MODELS})
    source = "MPT, AAAI 2026; constants of its official code (0.4 for lm), scale of this library"
    term: Literal["mpt"] = "mpt"
    bias: float = Field(default=4.0, ge=0, description="added to the logits of new classes while training")
    distance: Literal["kl", "lm"] = "kl"
    alpha: float = Field(default=1.0, ge=0)
    beta: float = Field(default=5.0, ge=0)
    temperature: float = Field(default=5.0, gt=0)
    distil: float = Field(
        default=1.0, gt=0, description="of each distillation, beside the classification's 1"
    )

    def build(self, given: Given) -> Task:
        return Mpt(self, given)


class Mpt(Classifier):
    """CE(z + b [new class]) + distil * (FD(z, old) on shared classes + FD(z, new model)).

    Ricci et al., Mitigating Negative Flips via Margin Preserving Training (AAAI 2026). Both sources are
    weighted where the respective model is right.
    """

    def __init__(self, config: MptConfig, given: Given) -> None:
        super().__init__(config, given)
        self.config = config
        self.old = OldClassifier(config.term, given, config.scale)
        self.references = References(config, given)

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c, labels, logits = self.config, supervision.labels, self.logits(embeddings)
        old, new = self.old(supervision.anchor), self.references.logits(supervision)
        right = answered_right(old, self.old.seen, labels), new.argmax(1) == labels
        weights = [focal_weights(each, c.alpha, c.beta) for each in right]
        sources = (self.old.shared(logits, old), (logits, new))
        distilled = sum(
            focal_distance(*pair, w, c.distance, c.temperature)
            for pair, w in zip(sources, weights, strict=True)
        )
        return self.classification(calibrated(logits, self.old.seen, c.bias), labels) + c.distil * distilled
