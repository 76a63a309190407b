"""Regression of the student's embedding onto the anchor's."""

from __future__ import annotations

from torch import Tensor


def cosine_regression(student: Tensor, anchor: Tensor) -> Tensor:
    """mean_i (1 - <s_i, a_i>) of unit vectors float [N, D], [N, D] -> scalar.

    Equals half the squared Euclidean distance of unit vectors: the unit-norm regression that AML
    (Budnik & Avrithis, CVPR 2021), LEAF (arXiv 2509.12539) and NanoVDR (arXiv 2603.12824) find to be
    the strong default. Label-free; needs stored anchor vectors only.
    """
    return (1 - (student * anchor).sum(1)).mean()
