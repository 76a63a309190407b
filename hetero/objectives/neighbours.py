"""Neighbourhoods in the anchor's space, as the student sees them: CSD, ROP, D3still, RAML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hetero.objectives.task import Given, Need, Pure, Supervision, Task, Term


def ranked(student: Tensor, anchor: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities to the anchor's k nearest of a gallery of anchor vectors, nearest first.

    student, anchor: unit float [N, D]; gallery: unit float [M, D] -> <s_i, g_j>, <a_i, g_j>: [N, min(k, M)].
    """
    expected, nearest = (anchor @ gallery.T).topk(min(k, len(gallery)), dim=1)
    return (student @ gallery.T).gather(1, nearest), expected


def csd(
    student: Tensor, anchor: Tensor, gallery: Tensor, k: int, student_temperature: float, temperature: float
) -> Tensor:
    """mean_i KL( softmax_j(<a_i, g_j>/t_a) || softmax_j(<s_i, g_j>/t_s) ) over the anchor's k neighbours g_j.

    Contextual similarity distillation (Wu et al., CVPR 2022), label-free.
    student, anchor: unit float [N, D]; gallery: unit float [M, D].
    """
    found, expected = ranked(student, anchor, gallery, k)
    log_found = F.log_softmax(found / student_temperature, 1)
    log_expected = F.log_softmax(expected / temperature, 1)
    return F.kl_div(log_found, log_expected, reduction="batchmean", log_target=True)


def rop(
    student: Tensor, anchor: Tensor, gallery: Tensor, k: int, temperature: float, rank_weight: float
) -> Tensor:
    """mean_i 1/k sum_{jl} w_j ( [t_l > t_j] - sigmoid((u_l - t_j) / tau) )^2 -> scalar.

    w_j = j softmax_j(rank_weight t_j); t, u: the anchor's and the student's similarities to the k nearest,
    in the anchor's order (j = 1..k).
    Rank order preservation (Wu et al., ICLR 2023, eq. 8 to 10) in the form of AIR-Distiller's code, which
    compares the student's similarity with the anchor's; a tie counts as one half. Label-free.
    """
    found, expected = ranked(student, anchor, gallery, k)
    step = 0.5 * (1 + (expected[:, None, :] - expected[:, :, None]).sign())  # [N, j, l]
    soft = torch.sigmoid((found[:, None, :] - expected[:, :, None]) / temperature)
    ranks = torch.arange(1, found.shape[1] + 1, device=found.device, dtype=found.dtype)
    weights = ranks * F.softmax(rank_weight * expected, 1)  # [N, j]
    return ((step - soft).pow(2).sum(2) * weights).sum(1).mean() / found.shape[1]


def d3still(
    student: Tensor, anchor: Tensor, gallery: Tensor, k: int, alpha: float, beta: float, gamma: float
) -> Tensor:
    """alpha/N |1 - <s_i, a_i>|_2 + mean_i [ beta |wrong_i * r_i|_2 + gamma |right_i * r_i|_2 ] / (k - 1).

    Decoupled differential distillation (Xie et al., CVPR 2024) as in its official code. For every pair j, l
    of the anchor's neighbours: d = t_j - t_l (anchor), e = u_j - u_l (student), r = (e - d) / (0.1 + |d|);
    wrong: pairs the student orders otherwise (e d < 0), right: e d > 0. The first neighbour, which is the
    image's own vector when the gallery holds it, is skipped. Label-free, works with stored vectors.
    student, anchor: unit float [N, D]; gallery: unit float [M, D], M > 2.
    """
    found, expected = (s[:, 1:] for s in ranked(student, anchor, gallery, k))
    pointwise = torch.linalg.vector_norm(1 - (student * anchor).sum(1)) / len(student)
    e, d = ((s[:, :, None] - s[:, None, :]).flatten(1) for s in (found, expected))
    r = (e - d) / (0.1 + d.abs())
    wrong, right = (
        torch.linalg.vector_norm(r * mask, dim=1).mean() / found.shape[1] for mask in (e * d < 0, e * d > 0)
    )
    loss: Tensor = alpha * pointwise + beta * wrong + gamma * right
    return loss


def raml(student: Tensor, anchor: Tensor, cross: float, inner: float) -> Tensor:
    """mean_i (1 - <s_i, a_i>)^2 + mean_{i != j} [ cross (S_sa - S_aa)^2_ij + inner (S_ss - S_aa)^2_ij ].

    RAML (Suma & Tolias, WACV 2023), S_xy = <x_i, y_j>. student, anchor: unit float [N, D], N > 1. Label-free.
    """
    expected = anchor @ anchor.T
    absolute = (1 - (student * anchor).sum(1)).pow(2).mean()
    relative = cross * _off_diagonal(student @ anchor.T - expected)
    loss: Tensor = absolute + relative + inner * _off_diagonal(student @ student.T - expected)
    return loss


def _off_diagonal(difference: Tensor) -> Tensor:
    """The mean square off the diagonal of [N, N]."""
    count = len(difference)
    squares = difference.pow(2)
    mean: Tensor = (squares.sum() - squares.trace()) / (count * (count - 1))
    return mean


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Neighbourhood(Task):
    """A loss over anchor vectors: of a fixed sample of the training images, or of the batch itself.

    The k nearest of a large sample are alike, and a softmax or an order over them sees only differences: what
    they have in common, which is where the image lies, is then left to another term, such as regression.
    """

    def __init__(self, loss: Loss, bank: Tensor | None) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("bank", bank, persistent=False)  # the anchor's, so not saved

    bank: Tensor | None

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        gallery = supervision.anchor if self.bank is None else self.bank.to(embeddings.dtype)
        return self.loss(embeddings, supervision.anchor, gallery)


def _bank(count: int, given: Given) -> Tensor | None:
    return given.anchors().sample(count, given.seed) if count else None


_BANK = (
    "sample of the anchor's training vectors that neighbours are found in, best beside `regression`; "
    "0: the batch's own"
)


class CsdConfig(Term):
    """The anchor's soft distribution over its nearest neighbours."""

    needs = frozenset({Need.VECTORS})
    source = "CSD, CVPR 2022; temperatures and k as in AIR-Distiller"
    term: Literal["csd"] = "csd"
    k: int = Field(default=96, gt=1)
    student_temperature: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=0.01, gt=0)
    bank: int = Field(default=0, ge=0, description=_BANK)

    def build(self, given: Given) -> Task:
        def loss(z: Tensor, anchor: Tensor, gallery: Tensor) -> Tensor:
            return csd(z, anchor, gallery, self.k, self.student_temperature, self.temperature)

        return Neighbourhood(loss, _bank(self.bank, given))


class RopConfig(Term):
    """The order of the anchor's nearest neighbours, with soft ranks."""

    needs = frozenset({Need.VECTORS})
    source = "ROP, ICLR 2023; constants as in AIR-Distiller"
    term: Literal["rop"] = "rop"
    k: int = Field(default=96, gt=1, le=512, description="memory grows with its square")
    temperature: float = Field(default=0.1, gt=0)
    rank_weight: float = Field(default=0.2, ge=0)
    bank: int = Field(default=0, ge=0, description=_BANK)

    def build(self, given: Given) -> Task:
        def loss(z: Tensor, anchor: Tensor, gallery: Tensor) -> Tensor:
            return rop(z, anchor, gallery, self.k, self.temperature, self.rank_weight)

        return Neighbourhood(loss, _bank(self.bank, given))


class D3StillConfig(Term):
    """Regression, plus differences of similarity to the anchor's neighbours, decoupled by order."""

    needs = frozenset({Need.VECTORS})
    source = "D3still, CVPR 2024; constants of its official code"
    term: Literal["d3still"] = "d3still"
    k: int = Field(default=10, gt=2, le=512, description="memory grows with its square")
    alpha: float = Field(default=50.0, ge=0, description="weight of the regression")
    beta: float = Field(default=2.0, ge=0, description="weight of pairs in the wrong order")
    gamma: float = Field(default=1.0, ge=0, description="weight of pairs in the right order")
    bank: int = Field(default=0, ge=0, description=_BANK)

    def build(self, given: Given) -> Task:
        def loss(z: Tensor, anchor: Tensor, gallery: Tensor) -> Tensor:
            return d3still(z, anchor, gallery, self.k, self.alpha, self.beta, self.gamma)

        return Neighbourhood(loss, _bank(self.bank, given))


class RamlConfig(Term):
    """Squared regression, plus the similarities inside the batch on both sides."""

    needs = frozenset({Need.VECTORS})
    source = "RAML, WACV 2023; weights of its SOP setting"
    term: Literal["raml"] = "raml"
    cross: float = Field(default=0.7482, ge=0)
    inner: float = Field(default=0.6778, ge=0)

    def build(self, given: Given) -> Task:
        return Pure(lambda z, b: raml(z, b.anchor, self.cross, self.inner))
