"""Matryoshka prefixes: the first dimensions of a space must do by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hetero.objectives.regression import cosine_regression
from hetero.objectives.softmax import margin_softmax, prototypes_of
from hetero.objectives.task import Given, Need, Pure, Supervision, Task, Term
from hetero_devices.errors import RecipeError

_SMALLEST = 8


def prefix_regression(student: Tensor, anchor: Tensor, dims: Sequence[int]) -> Tensor:
    """mean_d mean_i (1 - cos(s_i[:d], a_i[:d])) -> scalar.

    Matryoshka representation learning (Kusupati et al., NeurIPS 2022, eq. 1) with regression to the anchor
    as the loss: every prefix is normalised anew. student, anchor: float [N, D]; dims: each in 1..D.
    """
    losses = [cosine_regression(*(F.normalize(z[:, :d], dim=1) for z in (student, anchor))) for d in dims]
    return torch.stack(losses).mean()


def prefix_softmax(
    embeddings: Tensor, prototypes: Tensor, labels: Tensor, dims: Sequence[int], scale: float, margin: float
) -> Tensor:
    """mean_d of the margin softmax over the first d dimensions of embeddings and prototypes -> scalar.

    MRL-E (Kusupati et al., NeurIPS 2022): one classifier, whose prefixes serve the prefixes.
    embeddings: float [N, D]; prototypes: float [C, D]; labels: int64 [N]; dims: each in 1..D.
    """
    losses = [
        margin_softmax(F.normalize(embeddings[:, :d], dim=1), prototypes[:, :d], labels, scale, margin)
        for d in dims
    ]
    return torch.stack(losses).mean()


def halves(dim: int) -> tuple[int, ...]:
    """dim, dim / 2, ... down to 8: the nesting of the paper."""
    dims = [dim]
    while dims[-1] // 2 >= _SMALLEST:
        dims.append(dims[-1] // 2)
    return tuple(dims)


def _checked(term: str, dims: tuple[int, ...], dim: int) -> tuple[int, ...]:
    if any(not 0 < d <= dim for d in dims):
        raise RecipeError(f"the term {term!r} has a prefix outside 1..{dim}: {list(dims)}")
    return dims or halves(dim)


_DIMS = "lengths of the prefixes; empty: halves of the dimension down to 8"


class PrefixRegressionConfig(Term):
    """Regression at nested prefixes of the anchor's space."""

    needs = frozenset({Need.VECTORS})
    source = "MRL, NeurIPS 2022"
    term: Literal["prefix_regression"] = "prefix_regression"
    dims: tuple[int, ...] = Field(default=(), description=_DIMS)

    def build(self, given: Given) -> Task:
        dims = _checked(self.term, self.dims, given.dim)
        return Pure(lambda z, b: prefix_regression(z, b.anchor, dims))


class PrefixSoftmaxConfig(Term):
    """Classification at nested prefixes: how an anchor is trained whose prefixes students may emit."""

    needs = frozenset({Need.LABELS})
    source = "MRL-E, NeurIPS 2022; scale and margin are this library's"
    term: Literal["prefix_softmax"] = "prefix_softmax"
    dims: tuple[int, ...] = Field(default=(), description=_DIMS)
    scale: float = Field(default=24.0, gt=0)
    margin: float = Field(default=0.2, ge=0, lt=1)

    def build(self, given: Given) -> Task:
        return PrefixSoftmax(self, given)


class PrefixSoftmax(Task):
    """`prefix_softmax` with its prototypes."""

    def __init__(self, config: PrefixSoftmaxConfig, given: Given) -> None:
        super().__init__()
        self.config, self.dims = config, _checked(config.term, config.dims, given.dim)
        self.prototypes = prototypes_of(given.classes, given.dim)

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        c = self.config
        return prefix_softmax(embeddings, self.prototypes, supervision.labels, self.dims, c.scale, c.margin)

    def head(self) -> Tensor:
        return self.prototypes.detach()
