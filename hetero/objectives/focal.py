"""Positive-congruent retrieval: weight on the queries that the old system answers.

The focal weight of PCT (Yan et al., CVPR 2021) for embeddings. A training image counts as answered when the
anchor finds another image of its class first, among all training images (`Reference.answered`). That the
weight helps retrieval is this library's claim, not the paper's; `benchmarks/flips.py` measures it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from hetero.objectives.contrastive import supcon_by_query
from hetero.objectives.task import Given, Need, Supervision, Task, Term


def focal_weights(right: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha + beta * [the old system was right]: bool [N] -> float [N]. PCT, CVPR 2021."""
    return alpha + beta * right.float()


def focal_regression(student: Tensor, anchor: Tensor, weights: Tensor) -> Tensor:
    """mean_i w_i (1 - <s_i, a_i>) of unit vectors float [N, D], [N, D] and weights float [N] -> scalar."""
    return (weights * (1 - (student * anchor).sum(1))).mean()


def focal_contrast(
    student: Tensor, anchor: Tensor, labels: Tensor, weights: Tensor, temperature: float
) -> Tensor:
    """mean_i w_i SupCon_i, see `supcon_by_query`; student, anchor: unit float [N, D]; weights: float [N]."""
    return (weights * supcon_by_query(student, anchor, labels, temperature)).mean()


class FocalRegressionConfig(Term):
    """Unit-norm regression that weighs images the anchor answers right alpha + beta, others alpha."""

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "focal weight of PCT, CVPR 2021, on regression; alpha and beta as published"
    term: Literal["focal_regression"] = "focal_regression"
    alpha: float = Field(default=1.0, ge=0)
    beta: float = Field(default=5.0, ge=0)

    def build(self, given: Given) -> Task:
        return _Focal(self, given)


class FocalContrastConfig(Term):
    """Supervised contrast to the anchor's vectors, weighted towards images the anchor answers right."""

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "focal weight of PCT, CVPR 2021, on openBCT --contra; alpha and beta as published"
    term: Literal["focal_contrast"] = "focal_contrast"
    alpha: float = Field(default=1.0, ge=0)
    beta: float = Field(default=5.0, ge=0)
    temperature: float = Field(default=0.05, gt=0)

    def build(self, given: Given) -> Task:
        return _Focal(self, given)


class _Focal(Task):
    """Either term, with the weight of every training item."""

    def __init__(self, config: FocalRegressionConfig | FocalContrastConfig, given: Given) -> None:
        super().__init__()
        self.config = config
        weights = focal_weights(given.anchors().answered(), config.alpha, config.beta)
        self.register_buffer("weights", weights, persistent=False)

    weights: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        assert supervision.items is not None
        c, weights = self.config, self.weights[supervision.items]
        if isinstance(c, FocalRegressionConfig):
            return focal_regression(embeddings, supervision.anchor, weights)
        return focal_contrast(embeddings, supervision.anchor, supervision.labels, weights, c.temperature)
