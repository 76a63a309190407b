"""The linear head: ridge regression on the embedding, solved exactly, and the scale of its logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SCALES = torch.logspace(-2, 1, 61).tolist()


def ridge_head(features: Tensor, targets: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """The weight [K, D] and bias [K] that minimise mean_i |W f_i + b - t_i|^2 + decay * |W|^2.

    The bias is not decayed: W solves the ridge of centred features and targets. features: float [N, D];
    targets: float [N, K]; decay > 0. Solved in double precision, returned in the features' dtype.
    """
    x, t = features.double(), targets.double()
    centre, mean = x.mean(0), t.mean(0)
    x, t = x - centre, t - mean
    gram = x.T @ x / len(x) + decay * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gram, x.T @ t / len(x)).T
    return weight.to(features.dtype), (mean - weight @ centre).to(features.dtype)


def calibrated_scale(logits: Tensor, labels: Tensor) -> float:
    """The factor on the logits, of a fixed grid, with the least cross-entropy of held-out images.

    A ridge head's logits are not log-probabilities: with targets of 15 a softmax over them would start
    saturated, without a gradient. logits: float [N, C]; labels: int64 [N].
    """
    return float(min(_SCALES, key=lambda scale: float(F.cross_entropy(scale * logits, labels))))
