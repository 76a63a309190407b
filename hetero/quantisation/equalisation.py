"""Cross-layer equalisation (Nagel et al., ICCV 2019, section 4.1): even channels, same function."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from hetero.quantisation.folding import Folded
from hetero.quantisation.operators import Kind, is_homogeneous, kind

_ROUNDS = 20  # over all pairs; chains of three layers settle in a few


def equalise(folded: Folded) -> Folded:
    """A copy in which every pair of layers has equal ranges in the channels between them.

    A pair is two layers with nothing between them but operators that scale with their input (ReLU, LeakyReLU,
    mean, pooling), each value used once. The float function stays the same up to rounding. ReLU6 and
    hard-swish bend at fixed values, and a value that is also added elsewhere has a scale to keep: such pairs
    are left as they are. In a network of inverted residuals with ReLU6 or hard-swish that leaves the layers
    of squeeze-and-excitation, and blocks that follow each other without a shortcut.
    """
    equalised = Folded(copy.deepcopy(folded.graph), folded.norms)
    found = [(equalised.layer(first), equalised.layer(second)) for first, second in pairs(equalised)]
    for _ in range(_ROUNDS if found else 0):
        for first, second in found:
            _apply(first, second, scales(first.weight, _incoming(second)))
    return equalised


def pairs(folded: Folded) -> list[tuple[str, str]]:
    """Names of the layers between which scales may be moved, in the order of the graph."""
    graph = folded.graph
    found = []
    for node in graph.graph.nodes:
        if kind(node, graph) is Kind.LAYER:
            second = _next_layer(node, graph)
            if second is not None and _channels_match(folded.layer(node.target), folded.layer(second)):
                found.append((node.target, second))
    return found


@torch.no_grad()
def scales(first: Tensor, second: Tensor) -> Tensor:
    """Equation 11: s_i = sqrt(r1_i / r2_i), by which channel i is divided before and multiplied after.

    first: float [C, ...], weights that make the channels; second: float [C, ...], weights that read them.
    r: largest absolute weight of a channel. 1 for a channel that one of the two never uses.
    """
    r1, r2 = (weight.abs().flatten(1).amax(1) for weight in (first, second))
    return torch.where((r1 > 0) & (r2 > 0), (r1 / r2).sqrt(), torch.ones_like(r1))


@torch.no_grad()
def _apply(first: nn.Conv2d | nn.Linear, second: nn.Conv2d | nn.Linear, s: Tensor) -> None:
    first.weight.div_(_along(s, first.weight, 0))
    if first.bias is not None:
        first.bias.div_(s)
    second.weight.mul_(_along(s, second.weight, 0 if _is_depthwise(second) else 1))


def _incoming(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """The weights that read each input channel: float [C, ...]."""
    return layer.weight if _is_depthwise(layer) else layer.weight.transpose(0, 1)


def _along(s: Tensor, weight: Tensor, dim: int) -> Tensor:
    shape = [1] * weight.ndim
    shape[dim] = -1
    return s.reshape(shape)


def _is_depthwise(layer: nn.Conv2d | nn.Linear) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def _channels_match(first: nn.Conv2d | nn.Linear, second: nn.Conv2d | nn.Linear) -> bool:
    """Whether input channel i of `second` is output channel i of `first`; grouped layers are left alone."""
    grouped = isinstance(second, nn.Conv2d) and second.groups > 1 and not _is_depthwise(second)
    return not grouped and len(first.weight) == len(_incoming(second))


def _next_layer(node: fx.Node, graph: fx.GraphModule) -> str | None:
    """The layer that alone uses the value, through operators that scale with their input."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if kind(node, graph) is Kind.LAYER:
            return str(node.target)
        if not is_homogeneous(node, graph):
            return None
    return None
