"""From a method's choices to its loss and its preconditioner."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from hetero.linear.config import FinetuneConfig
from hetero.linear.fitting import Gradients, Lesson, Loss, Precondition, as_input
from hetero.linear.jacobian import Jacobian
from hetero.linear.kfac import Kfac
from hetero.linear.losses import Targets, rescaled_one_hot, scaled_one_hot, square_loss
from hetero.linear.methods import Method, Objective
from hetero.linear.solving import largest_eigenvalue
from hetero.linear.tangent import Tangent
from hetero.linear.vectors import flat, shaped

Solve = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

_POWER_STEPS = 12  # enough for the scale of a learning rate


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
    """K-FAC where the method asks for it, and the unit of rates of an expansion; None for other methods."""
    if method.step != "kfac" and (method.form, method.loss) != ("expansion", "mse"):
        return None
    assert isinstance(model, Tangent)
    return preconditioner(model, lesson.pixels, config, method.step == "kfac")


def preconditioner(tangent: Tangent, pixels: Tensor, config: FinetuneConfig, kfac: bool) -> Precondition:
    """K-FAC or nothing, divided by the largest curvature that it leaves.

    The matrix of an expansion does not change in training, so the largest eigenvalue of the (preconditioned)
    one, found by power iteration on some of the images, tells the largest stable rate once and for all: rates
    are in units of it, and mean the same for every network and data set. pixels: uint8 [N, 3, S, S].
    """
    count, start = len(pixels), tangent.start()
    penalty = config.lesson.decay * count / 2
    images = as_input(pixels, tangent)
    better: Solve = _kfac(tangent, images, config, penalty) if kfac else dict
    jacobian = Jacobian(tangent, images[: config.probe])
    share = len(jacobian) / count

    def curved(vector: Tensor) -> Tensor:
        whole = jacobian.transposed(jacobian.times(vector)) / share + penalty * vector
        return flat(better(shaped(whole, start)))

    top = largest_eigenvalue(curved, jacobian.width, _POWER_STEPS, config.seed)
    names = {name: f"update.{name.replace('.', '/')}" for name in tangent.names}

    def precondition(gradients: Gradients) -> Gradients:
        found = better({name: gradients[key] for name, key in names.items()})
        return {names[name]: tensor * (count / (2 * top)) for name, tensor in found.items()}

    return precondition


def _kfac(tangent: Tangent, images: Tensor, config: FinetuneConfig, penalty: float) -> Solve:
    found = Kfac.measure(tangent, images, draws=config.draws, seed=config.seed)
    return lambda vector: found.solve(vector, penalty, config.damping)
