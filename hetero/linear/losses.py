"""Quadratic losses as targets and weights, so that every solver here serves all of them.

The objective throughout: L(d) = sum_i sum_k c_ik (f_ik(d) - y_ik)^2 + penalty |d|^2, d = w - w0; a sum over
samples, as in w* = w0 + (J'CJ + penalty I)^-1 J'C (Y - f(X; w0)), so that removing a sample leaves the rest
as it is. Training in batches minimises the same divided by the number of samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hetero_devices.errors import DataError


@dataclass(frozen=True)
class Targets:
    """values: y, float [N, K]; weights: c >= 0, float [N, K], or None for ones."""

    values: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        """DataError for values that are not finite, or weights of another shape or below zero."""
        if self.values.ndim != 2 or not torch.isfinite(self.values).all():
            raise DataError("targets must be finite and [N, K]: look for NaN in labels or embeddings")
        if self.weights is not None and (
            self.weights.shape != self.values.shape or not bool((self.weights >= 0).all())
        ):
            raise DataError("weights of targets must be as many as the targets, and none below zero")

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, index: Tensor | slice) -> Targets:
        """Those of some samples, int64 [n]."""
        return Targets(self.values[index], None if self.weights is None else self.weights[index])

    def weighted(self, errors: Tensor) -> Tensor:
        """C times float [N, K]."""
        return errors if self.weights is None else self.weights * errors


def scaled_one_hot(labels: Tensor, classes: int, scale: float = 15.0) -> Targets:
    """`scale` for the own class, 0 for the others: the mean squared error of LQF (CVPR 2021, sec. 3).

    labels: int64 [N] in 0..classes-1; DataError otherwise. A large scale keeps gradients from fading, as that
    of a softmax does.
    """
    _check(labels, classes)
    return Targets(scale * F.one_hot(labels, classes).to(torch.get_default_dtype()))


def rescaled_one_hot(labels: Tensor, classes: int, own: float = 1.0, scale: float = 1.0) -> Targets:
    """The rescaled square loss (Hui & Belkin, ICLR 2021, eq. 2), for many classes.

    (1/C) (own (f_y - scale)^2 + sum_{j != y} f_j^2): their k is `own`, their M is `scale`; they use 1 and 1
    up to about 42 classes and, for example, 15 and 30 for a thousand. labels: as in `scaled_one_hot`.
    """
    _check(labels, classes)
    if own <= 0 or scale <= 0:
        raise DataError(f"the rescaled loss needs positive factors, not own={own} and scale={scale}")
    hot = F.one_hot(labels, classes).to(torch.get_default_dtype())
    return Targets(scale * hot, (1 + (own - 1) * hot) / classes)


def towards(embeddings: Tensor) -> Targets:
    """Regression onto the anchor's embeddings, float [N, D]: quadratic in the outputs as it is."""
    return Targets(embeddings)


def square_loss(outputs: Tensor, targets: Targets) -> Tensor:
    """mean_i sum_k c_ik (f_ik - y_ik)^2 -> scalar. outputs: float [N, K]."""
    errors = outputs - targets.values
    return targets.weighted(errors.square()).sum(1).mean()


def _check(labels: Tensor, classes: int) -> None:
    if labels.dtype != torch.int64 or labels.ndim != 1 or len(labels) == 0:
        raise DataError(f"labels must be int64 [N], N > 0, not {labels.dtype} {list(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DataError(f"labels must be in 0..{classes - 1}, found {int(labels.min())}..{int(labels.max())}")
