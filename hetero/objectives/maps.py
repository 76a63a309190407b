"""Parts of the image the anchor recognises by themselves: UGD."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from hetero.objectives.regression import l2_regression
from hetero.objectives.task import Given, Need, Task, Term
from hetero_devices.errors import RecipeError


def unambiguous_patches(student: Tensor, anchor: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean |a_ip - s_ip| over the patches p whose class the anchor's classifier gets right -> scalar.

    student, anchor: unit float [N, P, D], embedded patches of both models' maps; logits: float [N, P, C],
    the anchor's classification of its patches; labels: int64 [N]. Zero where it gets none right.
    """
    right = (logits.argmax(2) == labels[:, None]).flatten()
    distances = ((student - anchor).pow(2).sum(2) + 1e-12).sqrt().flatten()
    return (distances * right).sum() / right.sum().clamp(min=1)


def ugd(
    student: Tensor,
    anchor: Tensor,
    granularities: list[tuple[Tensor, Tensor, Tensor]],
    labels: Tensor,
    alpha: float,
    beta: float,
) -> Tensor:
    """alpha mean_i |s_i - a_i| + beta sum over granularities of `unambiguous_patches` -> scalar.

    Unambiguous granularity distillation (Xie et al., Neural Networks 2025) as in its official code, which
    pools the maps twice (a grid and its half) and uses alpha = beta = 2. student, anchor: unit float [N, D];
    a granularity: the student's patches, the anchor's, and the anchor's logits of them.
    """
    patches = [unambiguous_patches(*granularity, labels) for granularity in granularities]
    return alpha * l2_regression(student, anchor) + beta * sum(patches, start=student.new_zeros(()))


class UgdConfig(Term):
    """Regression of the embedding, and of the patches that the anchor classifies correctly.

    No anchor offers feature maps to a run yet, so a recipe with this term is refused; the loss itself is
    `hetero.objectives.maps.ugd`.
    """

    needs = frozenset({Need.LABELS, Need.VECTORS, Need.HEAD, Need.MAPS})
    source = "UGD, Neural Networks 2025"
    term: Literal["ugd"] = "ugd"
    alpha: float = Field(default=2.0, ge=0)
    beta: float = Field(default=2.0, ge=0)

    def build(self, given: Given) -> Task:
        self.check(given)
        raise RecipeError("the term 'ugd' needs feature maps in every batch, which no data source offers yet")
