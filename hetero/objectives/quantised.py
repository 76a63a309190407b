"""Anchor points from product quantisation: SSP."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hetero.objectives.task import Given, Need, Supervision, Task, Term
from hetero_devices.errors import RecipeError

_SAMPLE = 16_384  # vectors the codebooks are fitted on
_ITERATIONS = 20


def ssp(student: Tensor, anchor: Tensor, codebooks: Tensor, scale: float) -> Tensor:
    """mean_im KL( softmax_n(scale <a_im, c_mn>) || softmax_n(scale <s_im, c_mn>) ) -> scalar.

    i: images, m: subspaces. Structure similarity preserving (Wu et al., TNNLS 2024) as in its official
    code: a vector is cut into M parts, each made unit length and softly assigned to the centroids of its
    codebook. Label-free.
    student, anchor: float [N, D]; codebooks: unit float [M, n, D / M].
    """
    expected, found = (F.log_softmax(scale * _products(z, codebooks), 2) for z in (anchor, student))
    divergence = F.kl_div(found, expected, reduction="none", log_target=True).sum(2)  # [N, M]
    return divergence.mean()


def _products(vectors: Tensor, codebooks: Tensor) -> Tensor:
    """float [N, D], [M, n, c] -> cosines [N, M, n]."""
    parts = F.normalize(vectors.reshape(len(vectors), len(codebooks), -1), dim=2)
    return torch.einsum("imc,mnc->imn", parts, codebooks)


def fit_codebooks(vectors: Tensor, subspaces: int, centroids: int, seed: int) -> Tensor:
    """Spherical k-means in every subspace: float [K, D] -> unit float [subspaces, min(centroids, K), c].

    Deterministic. Begins at randomly drawn vectors; a centroid that loses all its vectors stays where it is.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(vectors), generator=generator)
    parts = F.normalize(vectors.reshape(len(vectors), subspaces, -1), dim=2)
    return torch.stack([_kmeans(parts[:, m], parts[chosen[:centroids], m]) for m in range(subspaces)])


def _kmeans(points: Tensor, centroids: Tensor) -> Tensor:
    """Unit [K, c] and first centroids [n, c] -> unit [n, c]."""
    for _ in range(_ITERATIONS):
        nearest = (points @ centroids.T).argmax(1)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        moved = F.normalize(sums, dim=1)
        centroids = torch.where(sums.norm(dim=1, keepdim=True) > 0, moved, centroids)
    return centroids


class SspConfig(Term):
    """Soft assignment to the anchor's product-quantisation centroids."""

    needs = frozenset({Need.VECTORS})
    source = "SSP, TNNLS 2024; constants of its official code"
    term: Literal["ssp"] = "ssp"
    subspaces: int = Field(default=32, gt=0, description="must divide the dimension")
    centroids: int = Field(default=256, gt=1)
    scale: float = Field(default=10.0, gt=0)

    def build(self, given: Given) -> Task:
        if given.dim % self.subspaces or given.dim == self.subspaces:
            raise RecipeError(
                f"the term 'ssp' cuts {given.dim} dimensions into {self.subspaces} equal parts of two or "
                "more: set its subspaces to a smaller divisor"
            )
        sample = given.anchors().sample(_SAMPLE, given.seed)
        return Ssp(fit_codebooks(sample, self.subspaces, self.centroids, given.seed), self.scale)


class Ssp(Task):
    """`ssp` with its codebooks, which are saved: they are fitted once."""

    def __init__(self, codebooks: Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("codebooks", codebooks)
        self.scale = scale

    codebooks: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        return ssp(embeddings, supervision.anchor, self.codebooks, self.scale)
