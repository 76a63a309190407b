"""Post-training corrections of a simulated network: biases by their mean error, roundings by adaptation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hetero.quantisation.lockstep import Visit, visit_layers
from hetero.quantisation.simulation import QuantisedDeploy

_IMAGES = 128  # more do not change a mean or a rounding by much, and all activations are held at once
_BATCH = 32


@dataclass(frozen=True)
class AdaRound:
    """Constants of AdaRound: those of the paper, but fewer iterations at a higher rate.

    beta: exponent of the regulariser at the start and the end; free: share of the iterations without it.
    """

    iterations: int = 300
    rate: float = 2e-2
    regularisation: float = 0.01
    beta: tuple[float, float] = (20.0, 2.0)
    free: float = 0.2


def correct_biases(deploy: QuantisedDeploy) -> None:
    """Shift every layer's bias by its mean output error over the calibration images, in place.

    Empirical bias correction (Nagel et al., ICCV 2019, section 4.2, appendix D). Layers are corrected in
    order, each on the int8 outputs of those before it. Layers without a bias are left as they are.
    """

    def correct(visit: Visit) -> None:
        bias = visit.layer.layer.bias
        if bias is not None:
            bias += mean_error(visit.float_output, visit.layer(visit.quantised_input))

    visit_layers(deploy, _pixels(deploy), correct)


def round_adaptively(deploy: QuantisedDeploy, config: AdaRound | None = None, seed: int = 0) -> None:
    """Choose for every weight whether it is rounded up or down, layer by layer, in place: AdaRound.

    A layer whose error on the calibration images would grow keeps its roundings to the nearest.
    """
    config = config or AdaRound()

    def adapt(visit: Visit) -> None:
        visit.layer.layer.weight.copy_(adaptive_rounding(visit, config, seed))

    visit_layers(deploy, _pixels(deploy), adapt)


def mean_error(expected: Tensor, found: Tensor) -> Tensor:
    """float [K, C, ...] twice -> the mean difference per channel: float [C]."""
    return (expected - found).transpose(0, 1).flatten(1).mean(1)


def adaptive_rounding(visit: Visit, config: AdaRound, seed: int) -> Tensor:
    """The layer's weights, float32 [O, ...] on their grid, rounded so that the layer's output is kept.

    AdaRound (Nagel et al., ICML 2020), equation 25 without the activation function: minimise
    |float output - layer(int8 input; W)|^2 + lambda sum(1 - |2 h(V) - 1|^beta), where
    W = s clip(floor(W/s) + h(V)) and h is a rectified sigmoid (equation 23), by Adam over V; then h is
    rounded.
    """
    layer, scheme = visit.layer.layer, visit.layer.scheme
    weight = layer.weight.detach()
    step = scheme.weight_scale(weight).reshape(-1, *[1] * (weight.ndim - 1))
    # Weights that lie on the grid already, up to float rounding: floor must keep them.
    levels = weight / step
    floor = torch.where((levels - levels.round()).abs() < 1e-4, levels.round(), levels.floor())
    logits = _logits(levels - floor).requires_grad_()

    def weights(up: Tensor) -> Tensor:
        return (floor + up).clamp(-scheme.weight_max, scheme.weight_max) * step

    with torch.enable_grad():
        count = len(visit.quantised_input)
        _optimise(logits, lambda up, rows: _loss(layer, weights(up), visit, rows), count, config, seed)
    adapted = weights((_rectified(logits.detach()) >= 0.5).to(weight.dtype))
    everything = torch.arange(len(visit.quantised_input))
    errors = [float(_loss(layer, w, visit, everything)) for w in (adapted, visit.layer.weight)]
    return adapted if errors[0] < errors[1] else visit.layer.weight


def _optimise(
    logits: Tensor, loss: Callable[[Tensor, Tensor], Tensor], count: int, config: AdaRound, seed: int
) -> None:
    optimizer = torch.optim.Adam([logits], lr=config.rate)
    generator = torch.Generator().manual_seed(seed)
    free = config.iterations * config.free
    for iteration in range(config.iterations):
        rows = torch.randint(0, count, (_BATCH,), generator=generator)
        up = _rectified(logits)
        total = loss(up, rows)
        if iteration >= free:
            done = (iteration - free) / (config.iterations - free)
            beta = config.beta[1] + (config.beta[0] - config.beta[1]) * (1 - done)
            total = total + config.regularisation * (1 - (2 * up - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _loss(layer: nn.Module, weight: Tensor, visit: Visit, rows: Tensor) -> Tensor:
    """Squared error summed over channels, mean over images and places: scalar."""
    output: Tensor = functional_call(layer, {"weight": weight}, (visit.quantised_input[rows],))
    return F.mse_loss(output, visit.float_output[rows]) * output.shape[1]


def _rectified(logits: Tensor) -> Tensor:
    """The rectified sigmoid of Louizos et al. (2018), stretched to [-0.1, 1.1] and clipped to [0, 1]."""
    return (torch.sigmoid(logits) * 1.2 - 0.1).clamp(0, 1)


def _logits(fraction: Tensor) -> Tensor:
    """The inverse of `_rectified`."""
    return torch.logit((fraction + 0.1) / 1.2)


def _pixels(deploy: QuantisedDeploy) -> Tensor:
    """Calibration images spread evenly over all of them: float32 [K, 3, S, S]."""
    count = len(deploy.calibration)
    rows = torch.linspace(0, count - 1, min(count, _IMAGES)).round().long()
    return deploy.calibration[rows].float()
