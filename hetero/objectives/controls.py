"""Controls: what is known to do worse, or not to make models compatible at all.

Relations inside each space (RKD, PKT) and logits of an own head say nothing of where the anchor's space
lies: a rotated student scores the same. They belong into every comparison, at its bottom.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hetero.objectives.softmax import prototypes_of
from hetero.objectives.task import Given, Need, Pure, Supervision, Task, Term


def raw_mse(raw: Tensor, anchor: Tensor) -> Tensor:
    """Mean squared error of the student's output before normalisation, float [N, D] both -> scalar.

    FitNet's regression (Romero et al., ICLR 2015) of the embedding, as in AIR-Distiller. It spends capacity
    on a length that the search ignores. Our anchors give unit vectors, so the target has length one.
    """
    return F.mse_loss(raw, anchor)


def rkd(student: Tensor, anchor: Tensor, distance: float, angle: float) -> Tensor:
    """distance * Huber(relative distances) + angle * Huber(angles) inside the batch -> scalar.

    Relational knowledge distillation (Park et al., CVPR 2019): distances over their mean, and
    cosines of the angles at j of all triples i, j, k. student, anchor: float [N, D]; memory is N^3.
    """
    distances = F.smooth_l1_loss(_relative_distances(student), _relative_distances(anchor))
    return distance * distances + angle * F.smooth_l1_loss(_angles(student), _angles(anchor))


def _relative_distances(z: Tensor) -> Tensor:
    """float [N, D] -> [N, N], divided by the mean of the positive ones."""
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    squared = (z[:, None] - z[None, :]).pow(2).sum(2).masked_fill(itself, 1.0)
    d = squared.clamp(min=1e-12).sqrt().masked_fill(itself, 0.0)
    return d / (d.sum() / (~itself).sum()).clamp(min=1e-12)


def _angles(z: Tensor) -> Tensor:
    """float [N, D] -> [N, N, N]: cosine of the angle at j between i and k."""
    directions = F.normalize(z[None, :] - z[:, None], dim=2)  # [j, i, D]
    return directions @ directions.transpose(1, 2)


def pkt(student: Tensor, anchor: Tensor) -> Tensor:
    """mean_ij p_ij log(p_ij / q_ij), p and q the anchor's and the student's similarities as probabilities.

    Probabilistic knowledge transfer (Passalis & Tefas, ECCV 2018) with the cosine kernel
    (1 + <x_i, x_j>) / 2, normalised over rows. student, anchor: unit float [N, D].
    """
    expected, found = (_probabilities(z) for z in (anchor, student))
    return (expected * ((expected + 1e-7) / (found + 1e-7)).log()).mean()


def _probabilities(z: Tensor) -> Tensor:
    kernel = (1 + z @ z.T) / 2
    return kernel / kernel.sum(1, keepdim=True)


def logit_distillation(student: Tensor, anchor: Tensor, temperature: float) -> Tensor:
    """T^2 mean_i KL( softmax(anchor_i / T) || softmax(student_i / T) ) of logits float [N, C] -> scalar.

    Knowledge distillation (Hinton et al., 2015), each model with its own classifier.
    """
    expected, found = (F.log_softmax(logits / temperature, 1) for logits in (anchor, student))
    return temperature**2 * F.kl_div(found, expected, reduction="batchmean", log_target=True)


class RawMseConfig(Term):
    """Mean squared error without normalisation: compatible, and known to be worse than 'regression'."""

    needs = frozenset({Need.VECTORS})
    source = "FitNet, ICLR 2015; as in AIR-Distiller"
    control = True
    term: Literal["raw_mse"] = "raw_mse"

    def build(self, given: Given) -> Task:
        return Pure(_raw_mse)


def _raw_mse(_: Tensor, batch: Supervision) -> Tensor:
    assert batch.raw is not None
    return raw_mse(batch.raw, batch.anchor)


class RkdConfig(Term):
    """Distances and angles inside the batch: must come out incompatible."""

    needs = frozenset({Need.VECTORS})
    source = "RKD, CVPR 2019; weights of the official code"
    control = True
    term: Literal["rkd"] = "rkd"
    distance: float = Field(default=25.0, ge=0)
    angle: float = Field(default=50.0, ge=0)

    def build(self, given: Given) -> Task:
        return Pure(lambda z, b: rkd(z, b.anchor, self.distance, self.angle))


class PktConfig(Term):
    """Similarity distributions inside the batch: must come out incompatible."""

    needs = frozenset({Need.VECTORS})
    source = "PKT, ECCV 2018; weight as in AIR-Distiller"
    control = True
    term: Literal["pkt"] = "pkt"
    weight: float = Field(default=30_000.0, gt=0)

    def build(self, given: Given) -> Task:
        return Pure(lambda z, b: pkt(z, b.anchor))


class LogitsConfig(Term):
    """The anchor's class probabilities, taught to an own head: must come out incompatible."""

    needs = frozenset({Need.VECTORS, Need.HEAD})
    source = "KD, 2015; temperature as in AIR-Distiller, scale of this library"
    control = True
    term: Literal["logits"] = "logits"
    temperature: float = Field(default=2.0, gt=0)
    scale: float = Field(default=24.0, gt=0)

    def build(self, given: Given) -> Task:
        assert given.head is not None  # refused before
        return Logits(self, given.head, given.dim)


class Logits(Task):
    """`logit_distillation` from the anchor's head to an own one."""

    def __init__(self, config: LogitsConfig, head: Tensor, dim: int) -> None:
        super().__init__()
        self.config = config
        self.prototypes = prototypes_of(len(head), dim)
        self.register_buffer("anchors", F.normalize(head, dim=1), persistent=False)

    anchors: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c = self.config
        own = c.scale * embeddings @ F.normalize(self.prototypes, dim=1).T
        return logit_distillation(own, c.scale * supervision.anchor @ self.anchors.T, c.temperature)
