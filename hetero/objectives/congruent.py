"""Positive-congruent training of classifiers: no new mistakes where the old classifier was right (PCT).

Yan et al., Positive-Congruent Training: Towards Regression-Free Model Updates (CVPR 2021). Logits of both
models are scale * cosine to their class prototypes. Where the old model knows fewer classes, the shared
logits are compared, and on images of the other classes it is never right, as in the official code. These
terms classify: they do not lead into the anchor's space.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hetero.objectives.focal import focal_weights
from hetero.objectives.softmax import prototypes_of
from hetero.objectives.task import Given, Need, Supervision, Task, Term
from hetero_devices.errors import RecipeError


def answered_right(logits: Tensor, seen: Tensor, labels: Tensor) -> Tensor:
    """Whether a classifier names the label: logits float [N, S], labels int64 [N] -> bool [N].

    seen: int64 [S], the training class each logit stands for, or -1 for none, which is never right.
    """
    return seen[logits.argmax(1)] == labels


def pct_naive(logits: Tensor, right: Tensor, labels: Tensor) -> Tensor:
    """(1/N) sum_i [old right on i] CE_i: PCT's naive re-weighting (CVPR 2021) -> scalar.

    logits: float [N, C], of the new model; right: bool [N], of the old one; labels: int64 [N].
    """
    return (right.float() * F.cross_entropy(logits, labels, reduction="none")).mean()


def kl_by_sample(new: Tensor, old: Tensor, temperature: float) -> Tensor:
    """KL( softmax(old / T) || softmax(new / T) ) of logits float [N, C] -> float [N], without T^2."""
    found, expected = (F.log_softmax(logits / temperature, 1) for logits in (new, old))
    return F.kl_div(found, expected, reduction="none", log_target=True).sum(1)


def matching_by_sample(new: Tensor, old: Tensor) -> Tensor:
    """mean_c (new_c - old_c)^2 / 2 of logits float [N, C] -> float [N].

    PCT's logit matching (CVPR 2021) with the mean over classes of MPT's re-implementation (AAAI 2026), so
    that its weight does not depend on their number. T^2 `kl_by_sample` tends to it as T grows, up to a
    constant added to all logits, which a softmax ignores.
    """
    return (new - old).pow(2).mean(1) / 2


class ClassifierTerm(Term):
    """A classification by an own, trained head: what all terms here share."""

    own_space: ClassVar[bool] = True
    scale: float = Field(default=24.0, gt=0)
    margin: float = Field(default=0.0, ge=0, lt=1)


class Classifier(Task):
    """An own head float32 [C, D] and its logits."""

    def __init__(self, config: ClassifierTerm, given: Given) -> None:
        super().__init__()
        self.scale, self.margin = config.scale, config.margin
        self.prototypes = prototypes_of(given.classes, given.dim)

    def logits(self, embeddings: Tensor) -> Tensor:
        """float32 [N, D] -> [N, C], without a margin."""
        return self.scale * embeddings @ F.normalize(self.prototypes, dim=1).T

    def classification(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with the margin on the own class -> scalar."""
        own = F.one_hot(labels, logits.shape[1])
        return F.cross_entropy(logits - self.scale * self.margin * own, labels)

    def head(self) -> Tensor:
        return self.prototypes.detach()


class OldClassifier(nn.Module):
    """The anchor as the old classifier: frozen prototypes, and the training classes they stand for."""

    def __init__(self, term: str, given: Given, scale: float) -> None:
        super().__init__()
        assert given.head is not None  # refused before
        seen = given.seen
        if not (seen >= 0).any():
            raise RecipeError(
                f"the anchor knows none of the training classes: {term!r} compares the logits of shared ones"
            )
        self.scale = scale
        self.register_buffer("prototypes", F.normalize(given.head, dim=1), persistent=False)
        self.register_buffer("seen", seen, persistent=False)

    prototypes: Tensor
    seen: Tensor

    def forward(self, anchor: Tensor) -> Tensor:
        """The anchor's embeddings unit float32 [N, D] -> its logits float32 [N, S]."""
        return self.scale * anchor @ self.prototypes.T

    def shared(self, new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the classes that both know: [N, C], [N, S] -> [N, K], [N, K]."""
        known = self.seen >= 0
        return new[:, self.seen[known]], old[:, known]


class PctNaiveConfig(ClassifierTerm):
    """Classification, with images that the anchor's classifier gets right counted again."""

    needs = frozenset({Need.LABELS, Need.VECTORS, Need.HEAD})
    source = "PCT, CVPR 2021; scale of this library"
    term: Literal["pct_naive"] = "pct_naive"
    again: float = Field(default=1.0, ge=0, description="weight of those images, beside the 1 of all")

    def build(self, given: Given) -> Task:
        return PctNaive(self, given)


class PctNaive(Classifier):
    """Cross-entropy and `pct_naive`."""

    def __init__(self, config: PctNaiveConfig, given: Given) -> None:
        super().__init__(config, given)
        self.again = config.again
        self.old = OldClassifier(config.term, given, config.scale)

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        logits, labels = self.logits(embeddings), supervision.labels
        right = answered_right(self.old(supervision.anchor), self.old.seen, labels)
        return self.classification(logits, labels) + self.again * pct_naive(logits, right, labels)


class FocalKlConfig(ClassifierTerm):
    """Focal distillation: the anchor's class probabilities, weighted towards images it classifies right."""

    needs = frozenset({Need.LABELS, Need.VECTORS, Need.HEAD})
    source = "FD-KL of PCT, CVPR 2021; alpha, beta and temperature as published, scale of this library"
    term: Literal["focal_kl"] = "focal_kl"
    alpha: float = Field(default=1.0, ge=0, description="of every image; 1 with beta 0 is plain distillation")
    beta: float = Field(default=5.0, ge=0, description="added where the anchor is right")
    temperature: float = Field(default=100.0, gt=0)
    distil: float = Field(default=1.0, gt=0, description="of the distillation, beside the classification's 1")

    def build(self, given: Given) -> Task:
        return FocalDistillation(self, given)


class FocalLmConfig(ClassifierTerm):
    """Focal distillation by logit matching, weighted towards images the anchor classifies right."""

    needs = frozenset({Need.LABELS, Need.VECTORS, Need.HEAD})
    source = "FD-LM of PCT, CVPR 2021; alpha and beta as published, distil as in MPT's code"
    term: Literal["focal_lm"] = "focal_lm"
    alpha: float = Field(default=1.0, ge=0, description="of every image; 1 with beta 0 is logit distillation")
    beta: float = Field(default=5.0, ge=0, description="added where the anchor is right")
    distil: float = Field(default=0.4, gt=0, description="of the distillation, beside the classification's 1")

    def build(self, given: Given) -> Task:
        return FocalDistillation(self, given)


class FocalDistillation(Classifier):
    """Cross-entropy + distil * mean_i (alpha + beta [old right on i]) D(new_i, old_i)."""

    def __init__(self, config: FocalKlConfig | FocalLmConfig, given: Given) -> None:
        super().__init__(config, given)
        self.config = config
        self.old = OldClassifier(config.term, given, config.scale)

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c, labels = self.config, supervision.labels
        logits, old = self.logits(embeddings), self.old(supervision.anchor)
        weights = focal_weights(answered_right(old, self.old.seen, labels), c.alpha, c.beta)
        distances = self._distances(*self.old.shared(logits, old))
        return self.classification(logits, labels) + c.distil * (weights * distances).mean()

    def _distances(self, new: Tensor, old: Tensor) -> Tensor:
        if isinstance(self.config, FocalLmConfig):
            return matching_by_sample(new, old)
        temperature = self.config.temperature
        return temperature**2 * kl_by_sample(new, old, temperature)


def focal_distance(
    new: Tensor, reference: Tensor, weights: Tensor, kind: Literal["kl", "lm"], temperature: float
) -> Tensor:
    """mean_i w_i D(new_i, reference_i) -> scalar, without T^2, as in MPT's official code."""
    if kind == "lm":
        return (weights * matching_by_sample(new, reference)).mean()
    return (weights * kl_by_sample(new, reference, temperature)).mean()


def calibrated(logits: Tensor, seen: Tensor, bias: float) -> Tensor:
    """logits + bias on the classes that the old model does not know: float [N, C]; seen: int64 [S] or -1."""
    new = torch.ones(logits.shape[1], device=logits.device)
    new[seen[seen >= 0]] = 0
    return logits + bias * new
