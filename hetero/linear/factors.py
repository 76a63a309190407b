"""What each layer contributes to the Gauss-Newton matrix: its inputs, and derivatives at its outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KRONECKER = (nn.Linear, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


@dataclass(frozen=True)
class Use:
    """One call of a layer on a batch: its input and output."""

    module: nn.Module
    input: Tensor
    output: Tensor


def layer_inputs(module: nn.Linear | nn.Conv2d, x: Tensor, bias: bool) -> Tensor:
    """What each weight is multiplied with: float [N, T, groups, inputs of a group (+ 1 for the bias)].

    T: places at which the weights are used, 1 for a plain linear layer. A convolution's inputs are its
    patches, ordered as its weights (KFC: Grosse & Martens, ICML 2016); each group has its own.
    """
    found = _patches(module, x) if isinstance(module, nn.Conv2d) else x.reshape(len(x), -1, 1, x.shape[-1])
    return torch.cat((found, torch.ones_like(found[..., :1])), -1) if bias else found


def layer_outputs(module: nn.Linear | nn.Conv2d, gradient: Tensor) -> Tensor:
    """Derivatives at a layer's outputs as float [N, T, groups, outputs of a group]."""
    if isinstance(module, nn.Conv2d):
        grouped = gradient.reshape(len(gradient), module.groups, -1, gradient.shape[2:].numel())
        return grouped.permute(0, 3, 1, 2)  # from [N, G, O/G, T]
    return gradient.reshape(len(gradient), -1, 1, gradient.shape[-1])


def norm_jacobian(module: nn.Module, use: Use, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Exact derivatives by a frozen norm's weight and bias: float [N, C] each, summed over its places."""
    if isinstance(module, nn.LayerNorm):
        normal = F.layer_norm(use.input, module.normalized_shape, eps=module.eps)
        places = tuple(range(1, gradient.ndim - len(module.normalized_shape)))
    else:
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        normal = F.batch_norm(use.input, module.running_mean, module.running_var, eps=module.eps)
        places = tuple(range(2, gradient.ndim))
    by_weight, by_bias = gradient * normal, gradient
    if places:
        by_weight, by_bias = by_weight.sum(places), by_bias.sum(places)
    return by_weight.flatten(1), by_bias.flatten(1)


def _patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    columns = F.unfold(padded, module.kernel_size, module.dilation, 0, module.stride)
    grouped = columns.reshape(len(x), module.groups, -1, columns.shape[-1])
    return grouped.permute(0, 3, 1, 2)
