"""Which operators the simulation knows, and how the converters treat each: everything else is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from hetero_devices.errors import ModelError


class Kind(Enum):
    """How an operator's output is quantised."""

    ENDS = "input or output of the graph"
    LAYER = "has weights; its output is rounded"
    CLIPPING = "an activation that only narrows a range, so it fuses into the operator before it"
    ROUNDED = "computes without weights; its output is rounded"
    ISLAND = "has no integer form in ONNX Runtime: rounded there only for an integer operator that takes it"
    RESIZED = "the pixels at another size: rounded to the grid they had"
    MOVING = "moves or selects values: nothing to round"


_MODULES: dict[type[nn.Module], Kind] = {
    nn.Conv2d: Kind.LAYER,
    nn.Linear: Kind.LAYER,
    nn.ReLU: Kind.CLIPPING,
    nn.ReLU6: Kind.CLIPPING,
    nn.LeakyReLU: Kind.ROUNDED,
    nn.Hardswish: Kind.ISLAND,
    nn.Hardsigmoid: Kind.ISLAND,
    nn.Sigmoid: Kind.ROUNDED,
    nn.SiLU: Kind.ROUNDED,
    nn.AdaptiveAvgPool2d: Kind.ISLAND,
    nn.Identity: Kind.MOVING,
    nn.Dropout: Kind.MOVING,
    nn.Flatten: Kind.MOVING,
    nn.MaxPool2d: Kind.MOVING,
}
_FUNCTIONS: dict[Callable[..., Any], Kind] = {
    F.relu: Kind.CLIPPING,
    F.relu6: Kind.CLIPPING,
    torch.relu: Kind.CLIPPING,
    F.leaky_relu: Kind.ROUNDED,
    operator.add: Kind.ROUNDED,
    operator.iadd: Kind.ROUNDED,
    torch.add: Kind.ROUNDED,
    operator.mul: Kind.ROUNDED,
    operator.imul: Kind.ROUNDED,
    torch.mul: Kind.ROUNDED,
    F.hardswish: Kind.ISLAND,
    F.hardsigmoid: Kind.ISLAND,
    F.sigmoid: Kind.ROUNDED,
    torch.sigmoid: Kind.ROUNDED,
    F.silu: Kind.ROUNDED,
    torch.mean: Kind.ISLAND,
    torch.flatten: Kind.MOVING,
    F.interpolate: Kind.RESIZED,
}
_METHODS = {
    "relu": Kind.CLIPPING,
    "add": Kind.ROUNDED,
    "mul": Kind.ROUNDED,
    "sigmoid": Kind.ROUNDED,
    "mean": Kind.ISLAND,
    "flatten": Kind.MOVING,
    "contiguous": Kind.MOVING,
}
_HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Dropout, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
_HOMOGENEOUS_CALLS = {F.relu, torch.relu, F.leaky_relu, torch.mean, "relu", "mean"}
_ADDITIONS = {operator.add, operator.iadd, torch.add, "add"}


def kind(node: fx.Node, graph: fx.GraphModule) -> Kind:
    """How the node's output is quantised; ModelError names an operator that is not known."""
    found: Kind | None
    match node.op:
        case "placeholder" | "output":
            found = Kind.ENDS
        case "call_module":
            found = _MODULES.get(type(graph.get_submodule(str(node.target))))
        case "call_function":
            found = _FUNCTIONS.get(node.target)  # type: ignore[arg-type]
        case _:
            found = _METHODS.get(str(node.target))
    if found is None or (found is Kind.RESIZED and not _resizes_image(node)):
        raise ModelError(
            f"{name(node, graph)} cannot be finished for int8: it is not simulated; word it by convolutions, "
            "linear layers, ReLU, ReLU6, LeakyReLU, hard-swish, SiLU, (hard) sigmoids, sums, products, "
            "means and a `Resize` of the image (see hetero.models.layers), or export without "
            "student.quantised"
        )
    return found


def resized_to(node: fx.Node) -> int:
    """The side that a node of kind RESIZED gives its square images."""
    size = node.kwargs["size"]
    assert isinstance(size, tuple)
    assert isinstance(size[0], int)
    return size[0]


def _resizes_image(node: fx.Node) -> bool:
    """Whether the node is `hetero.models.layers.Resize` at the network's input; torch traces it by names."""
    (source,), given = node.all_input_nodes, node.kwargs
    plain = given["mode"] == "bilinear" and not given["align_corners"] and not given["antialias"]
    size = given["size"]
    return source.op == "placeholder" and plain and isinstance(size, tuple) and len(set(size)) == 1


def name(node: fx.Node, graph: fx.GraphModule) -> str:
    """What a person calls the operator."""
    if node.op == "call_module":
        return f"{type(graph.get_submodule(str(node.target))).__name__} ({node.target})"
    return f"the operator {getattr(node.target, '__name__', node.target)!r}"


def is_homogeneous(node: fx.Node, graph: fx.GraphModule) -> bool:
    """Whether f(s x) = s f(x) for s > 0, channel by channel: scales may be moved across it.

    Not so for ReLU6 and hard-swish, which bend at fixed values.
    """
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), _HOMOGENEOUS)
    return node.target in _HOMOGENEOUS_CALLS


def adds_constant(node: fx.Node) -> bool:
    """Whether the node adds a number to a tensor."""
    return node.target in _ADDITIONS and any(isinstance(argument, int | float) for argument in node.args)
