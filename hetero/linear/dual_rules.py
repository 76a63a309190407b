"""Numbers with a derivative along one direction, and how plain operators act on them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dual(NamedTuple):
    """value: a tensor, or anything else in a graph; change: its derivative, None where that is zero."""

    value: Any
    change: Tensor | None


Rule = Callable[..., Dual]
_FIRST, _SLOPE = Dual(0, None), Dual(0.01, None)  # torch's defaults


def through(function: Callable[..., Any]) -> Rule:
    """Of a function linear in its first argument."""

    def rule(x: Dual, *args: Dual, **kwargs: Dual) -> Dual:
        others = [each.value for each in args]
        named = {name: each.value for name, each in kwargs.items()}
        change = None if x.change is None else function(x.change, *others, **named)
        return Dual(function(x.value, *others, **named), change)

    return rule


def elementwise(function: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Rule:
    """Of a function of each element, by its slope."""

    def rule(x: Dual, *args: Dual, **kwargs: Dual) -> Dual:
        return Dual(function(x.value), None if x.change is None else x.change * slope(x.value))

    return rule


def add(x: Dual, y: Dual) -> Dual:
    """x + y."""
    value = x.value + y.value
    parts = [each.change for each in (x, y) if each.change is not None]
    if not parts:
        return Dual(value, None)
    change = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return Dual(value, change if change.shape == value.shape else change + torch.zeros_like(value))


def subtract(x: Dual, y: Dual) -> Dual:
    """x - y."""
    return add(x, Dual(-y.value, None if y.change is None else -y.change))


def multiply(x: Dual, y: Dual) -> Dual:
    """x * y, by the product rule."""
    left = None if x.change is None else x.change * y.value
    right = None if y.change is None else x.value * y.change
    change = right if left is None else left if right is None else left + right
    return Dual(x.value * y.value, change)


def concatenate(parts: Any, dim: Dual = _FIRST) -> Dual:
    """torch.cat."""
    value = torch.cat([part.value for part in parts], dim.value)
    if all(part.change is None for part in parts):
        return Dual(value, None)
    changes = [torch.zeros_like(p.value) if p.change is None else p.change for p in parts]
    return Dual(value, torch.cat(changes, dim.value))


def leaky(slope: float) -> Rule:
    """LeakyReLU; at zero torch takes the lower slope, and so does this."""

    def rule(x: Dual, *args: Dual, **kwargs: Dual) -> Dual:
        change = None if x.change is None else torch.where(x.value > 0, x.change, slope * x.change)
        return Dual(F.leaky_relu(x.value, slope), change)

    return rule


def _inside(x: Tensor, low: float, high: float) -> Tensor:
    return torch.where((x > low) & (x < high), 1.0, 0.0)


def _hard_swish_slope(x: Tensor) -> Tensor:
    return F.relu6(x + 3) * (1 / 6) + x * _inside(x, -3, 3) * (1 / 6)


def _sigmoid_slope(x: Tensor) -> Tensor:
    y = torch.sigmoid(x)
    return y * (1 - y)


def _silu_slope(x: Tensor) -> Tensor:
    y = torch.sigmoid(x)
    return y + x * y * (1 - y)


RELU = elementwise(F.relu, lambda x: torch.where(x > 0, 1.0, 0.0))
RELU6 = elementwise(F.relu6, lambda x: _inside(x, 0, 6))
HARD_SWISH = elementwise(F.hardswish, _hard_swish_slope)
HARD_SIGMOID = elementwise(lambda x: F.relu6(x + 3) * (1 / 6), lambda x: _inside(x, -3, 3) * (1 / 6))
SIGMOID = elementwise(torch.sigmoid, _sigmoid_slope)
SILU = elementwise(F.silu, _silu_slope)
TANH = elementwise(torch.tanh, lambda x: 1 - torch.tanh(x).square())


def _leaky_function(x: Dual, slope: Dual = _SLOPE, *args: Dual, **kwargs: Dual) -> Dual:
    return leaky(float(kwargs.get("negative_slope", slope).value))(x)


MODULES: dict[type[nn.Module], Rule] = {
    nn.ReLU: RELU,
    nn.ReLU6: RELU6,
    nn.Hardswish: HARD_SWISH,
    nn.Hardsigmoid: HARD_SIGMOID,
    nn.Sigmoid: SIGMOID,
    nn.SiLU: SILU,
    nn.Tanh: TANH,
}
LINEAR_MODULES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.ZeroPad2d)

FUNCTIONS: dict[Any, Rule] = {
    F.relu: RELU,
    torch.relu: RELU,
    F.relu6: RELU6,
    F.hardswish: HARD_SWISH,
    F.hardsigmoid: HARD_SIGMOID,
    F.sigmoid: SIGMOID,
    torch.sigmoid: SIGMOID,
    F.silu: SILU,
    torch.tanh: TANH,
    F.leaky_relu: _leaky_function,
    operator.add: add,
    operator.iadd: add,
    torch.add: add,
    operator.sub: subtract,
    operator.mul: multiply,
    operator.imul: multiply,
    torch.mul: multiply,
    torch.cat: concatenate,
    torch.flatten: through(torch.flatten),
    torch.mean: through(torch.mean),
    F.avg_pool2d: through(F.avg_pool2d),
    F.adaptive_avg_pool2d: through(F.adaptive_avg_pool2d),
    F.interpolate: through(F.interpolate),
    F.pad: through(F.pad),  # by zeros, the only kind that is linear and not affine
    operator.getitem: through(operator.getitem),
    getattr: lambda x, name: Dual(getattr(x.value, name.value), None),  # a shape
}
_LINEAR_METHODS = (
    Tensor.mean,
    Tensor.sum,
    Tensor.flatten,
    Tensor.reshape,
    Tensor.view,
    Tensor.transpose,
    Tensor.permute,
    Tensor.contiguous,
    Tensor.unsqueeze,
    Tensor.squeeze,
)
METHODS: dict[str, Rule] = {
    **{method.__name__: through(method) for method in _LINEAR_METHODS},
    "add": add,
    "mul": multiply,
    "relu": RELU,
    "sigmoid": SIGMOID,
    "size": lambda x, *place: Dual(x.value.size(*(each.value for each in place)), None),
}
