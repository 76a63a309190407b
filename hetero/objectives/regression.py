"""Regression of the student's embedding onto the anchor's."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from hetero.objectives.task import Given, Need, Pure, Task, Term


def cosine_regression(student: Tensor, anchor: Tensor) -> Tensor:
    """mean_i (1 - <s_i, a_i>) of unit vectors float [N, D], [N, D] -> scalar.

    Equals half the squared Euclidean distance of unit vectors: the unit-norm regression that AML
    (Budnik & Avrithis, CVPR 2021), LEAF (arXiv 2509.12539) and NanoVDR (arXiv 2603.12824) find to be
    the strong default. Label-free; needs stored anchor vectors only.
    """
    return (1 - (student * anchor).sum(1)).mean()


def l2_regression(student: Tensor, anchor: Tensor) -> Tensor:
    """mean_i |s_i - a_i| of unit vectors float [N, D], [N, D] -> scalar; the distance is not squared.

    The regression of LEAF (arXiv 2509.12539) and QED (SustaiNLP 2023); also the feature term of UGD's
    official code. Its gradient does not fade as the student approaches.
    """
    return ((student - anchor).pow(2).sum(1) + 1e-12).sqrt().mean()


class RegressionConfig(Term):
    """Unit-norm regression to the anchor's embeddings: 1 - cosine."""

    needs = frozenset({Need.VECTORS})
    source = "AML, CVPR 2021"
    term: Literal["regression"] = "regression"

    def build(self, given: Given) -> Task:
        return Pure(lambda z, batch: cosine_regression(z, batch.anchor))


class L2RegressionConfig(Term):
    """Unit-norm regression by the Euclidean distance, not squared."""

    needs = frozenset({Need.VECTORS})
    source = "LEAF, arXiv 2509.12539; QED, SustaiNLP 2023"
    term: Literal["l2_regression"] = "l2_regression"

    def build(self, given: Given) -> Task:
        return Pure(lambda z, batch: l2_regression(z, batch.anchor))
