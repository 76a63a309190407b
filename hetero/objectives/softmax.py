"""Classification over class prototypes on the unit sphere."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def margin_softmax(
    embeddings: Tensor, prototypes: Tensor, labels: Tensor, scale: float, margin: float
) -> Tensor:
    """Large-margin cosine loss (CosFace: Wang et al., CVPR 2018, eq. 4) -> scalar.

    -mean_i log softmax_j( scale * (<z_i, w_j> - margin * [j = y_i]) )[y_i]

    embeddings: unit float [N, D]; prototypes: float [C, D], normalised here; labels: int64 [N] in 0..C-1.
    With the anchor's prototypes, frozen, this is BCT's influence loss (Shen et al., CVPR 2020, eq. 3)
    with a normalised classifier, and the frozen-head term of HVS (Duggal et al., CVPR 2021).
    """
    cosines = embeddings @ F.normalize(prototypes, dim=1).T  # [N, C]
    return F.cross_entropy(scale * (cosines - margin * F.one_hot(labels, len(prototypes))), labels)
