"""Stationary representations: a classifier that is fixed before anything is trained (HOC)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hetero.objectives.softmax import margin_softmax
from hetero.objectives.task import Given, Need, Supervision, Task, Term
from hetero_devices.errors import RecipeError


def d_simplex(classes: int, dim: int) -> Tensor:
    """The vertices of a regular simplex, unit float64 [classes, dim]: <v_i, v_j> = -1 / (classes - 1).

    classes <= dim + 1. The fixed head of CoReS (Biondi et al., TPAMI 2023), here by Helmert's matrix.
    """
    assert 1 < classes <= dim + 1
    corner = torch.eye(classes, dtype=torch.float64).cumsum(0).tril()  # row r: ones up to r
    rows = corner[:-1].clone()
    counts = torch.arange(1, classes, dtype=torch.float64)
    rows[torch.arange(classes - 1), torch.arange(1, classes)] = -counts
    vertices = F.normalize((rows / rows.norm(dim=1, keepdim=True)).T, dim=1)  # [classes, classes - 1]
    return F.pad(vertices, (0, dim - classes + 1))


def turned_onto(prototypes: Tensor, centres: Tensor) -> Tensor:
    """The prototypes, rotated to lie closest to the centres (orthogonal Procrustes); float [C, D] all."""
    u, _, vh = torch.linalg.svd(prototypes.T @ centres)
    turned: Tensor = prototypes @ (u @ vh)
    return turned


def hoc(
    student: Tensor,
    anchor: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    scale: float,
    temperature: float,
    share: float,
) -> Tensor:
    """(1 - q) CE(scale W s) + q mean_i [ -mu <s_i, a_i> + log sum_j exp(mu <s_i, a_j> [y_j != y_i]) ].

    Higher-order compatibility (Biondi et al., CVPR 2024, eq. 4) as in the official code, where a pair of
    one class counts as a similarity of zero in the sum. q = share, mu = 1 / temperature. student,
    anchor: unit float [N, D]; prototypes: float [C, D], the fixed simplex; labels: int64 [N].
    """
    logits = student @ anchor.T / temperature
    others = logits * (labels[:, None] != labels[None, :])
    contrast = (others.logsumexp(1) - logits.diag()).mean()
    return (1 - share) * margin_softmax(student, prototypes, labels, scale, 0.0) + share * contrast


def _vertices(term: str, given: Given) -> Tensor:
    if given.classes > given.dim + 1:
        raise RecipeError(
            f"the term {term!r} needs one dimension fewer than classes: {given.classes} classes do not fit "
            f"into {given.dim} dimensions; use fewer classes (data.rotations=false) or a larger space"
        )
    return d_simplex(given.classes, given.dim).float()


class SimplexConfig(Term):
    """Classification by a fixed regular simplex: how an anchor for 'hoc' is trained, or a student alone."""

    needs = frozenset({Need.LABELS})
    source = "CoReS, TPAMI 2023; scale is this library's"
    term: Literal["simplex"] = "simplex"
    scale: float = Field(default=24.0, gt=0)

    def build(self, given: Given) -> Task:
        return Simplex(_vertices(self.term, given), self.scale)


class Simplex(Task):
    """Softmax over fixed vertices."""

    def __init__(self, vertices: Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("vertices", vertices, persistent=False)
        self.scale = scale

    vertices: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        return margin_softmax(embeddings, self.vertices, supervision.labels, self.scale, 0.0)

    def head(self) -> Tensor:
        return self.vertices


class HocConfig(Term):
    """The fixed simplex, and contrast to the anchor's vectors.

    The method assumes an anchor trained by 'simplex'. For any other the simplex is rotated onto the anchor's
    class centres, which is this library's addition.
    """

    needs = frozenset({Need.LABELS, Need.VECTORS})
    source = "HOC, CVPR 2024; share and temperature of its official code, scale of this library"
    term: Literal["hoc"] = "hoc"
    scale: float = Field(default=24.0, gt=0)
    temperature: float = Field(default=0.1, gt=0, description="1 / mu")
    share: float = Field(default=0.1, ge=0, le=1, description="of the contrast; lambda")

    def build(self, given: Given) -> Task:
        vertices = _vertices(self.term, given)
        if given.head is None or not torch.equal(given.head, vertices):
            vertices = turned_onto(vertices, given.anchors().centres(given.classes))
        return Hoc(self, vertices)


class Hoc(Task):
    """`hoc` with its fixed vertices."""

    def __init__(self, config: HocConfig, vertices: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("vertices", vertices, persistent=False)

    vertices: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c = self.config
        return hoc(
            embeddings,
            supervision.anchor,
            supervision.labels,
            self.vertices,
            c.scale,
            c.temperature,
            c.share,
        )
