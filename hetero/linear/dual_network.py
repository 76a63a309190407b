"""A tangent as a network of plain operators, for the exporters: values and their changes side by side.

Each convolution or linear layer, its batch norm folded into it, computes its output and the change of it,
W x and W dx + dW x: three layers instead of one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from hetero.linear.dual_rules import FUNCTIONS, LINEAR_MODULES, METHODS, MODULES, Dual, leaky, through
from hetero.linear.tangent import Tangent, Update
from hetero.quantisation.folding import Folded, fold_only
from hetero.quantisation.operators import name as operator_name
from hetero_devices.errors import ModelError


class DualNetwork(nn.Module):
    """The same function as a tangent, by plain operators and without automatic differentiation.

    float32 [N, 3, S, S] -> float32 [N, K]. For deployment: weights and update are fixed.
    """

    def __init__(self, tangent: Tangent) -> None:
        """Raise ModelError where torch.fx does not trace the network, or naming an unsupported operator."""
        super().__init__()
        delta = {name: tensor.detach() for name, tensor in tangent.delta().items()}
        folded = fold_only(tangent.network)
        self.graph = folded.graph
        self.changes = nn.ModuleDict()
        for name, norm in folded.norms.items():
            moved = _change(tangent.network, name, norm, delta)
            if moved is not None:
                self.changes[_key(name)] = _layer(folded, name, *moved)
        self.free = nn.ParameterDict({_key(n): d for n, d in delta.items() if not _covered(n, folded)})
        self._refuse_unknown()
        self.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        value, change = self.both(inputs)
        return value + change

    def both(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The network's output and its change, float32 [N, K] each, as `Tangent.both`."""
        seen: dict[fx.Node, Dual] = {}
        for node in self.graph.graph.nodes:
            seen[node] = Dual(inputs, None) if node.op == "placeholder" else self._run(node, seen)
        end = seen[node]
        return end.value, torch.zeros_like(end.value) if end.change is None else end.change

    def _run(self, node: fx.Node, seen: dict[fx.Node, Dual]) -> Dual:
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        args = [_dual(argument, seen) for argument in node.args]
        kwargs = {name: _dual(argument, seen) for name, argument in node.kwargs.items()}
        if node.op == "output":
            end: Dual = args[0]
            return end
        if node.op == "call_module":
            return self._module(str(node.target), args[0])
        table: Any = FUNCTIONS if node.op == "call_function" else METHODS
        found: Dual = table[node.target](*args, **kwargs)
        return found

    def _attribute(self, name: str) -> Dual:
        value: Any = self.graph
        for part in name.split("."):
            value = getattr(value, part)
        return Dual(value, self.free.get(_key(name), None))

    def _module(self, name: str, x: Dual) -> Dual:
        module = self.graph.get_submodule(name)
        if isinstance(module, nn.Conv2d | nn.Linear):
            return self._weighted(name, module, x)
        if isinstance(module, nn.BatchNorm2d):
            return _norm(module, x)
        if isinstance(module, nn.LeakyReLU):
            return leaky(module.negative_slope)(x)
        return through(module)(x) if isinstance(module, LINEAR_MODULES) else MODULES[type(module)](x)

    def _weighted(self, name: str, layer: nn.Conv2d | nn.Linear, x: Dual) -> Dual:
        parts = []
        if x.change is not None:
            parts.append(_without_bias(layer, x.change))
        if _key(name) in self.changes:
            parts.append(self.changes[_key(name)](x.value))
        return Dual(layer(x.value), sum(parts[1:], start=parts[0]) if parts else None)

    def _refuse_unknown(self) -> None:
        for node in self.graph.graph.nodes:
            if not self._known(node):
                raise ModelError(
                    f"{operator_name(node, self.graph)} has no dual form for deployment: export the merged "
                    "network, distilled (see hetero.linear.distilling), or replace it"
                )
        used = {_key(str(node.target)) for node in self.graph.graph.nodes}
        if stuck := [key.replace("/", ".") for key in self.free if key not in used]:
            raise ModelError(f"the update of {stuck[0]} has no dual form for deployment: let it not move")

    def _known(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            module = self.graph.get_submodule(str(node.target))
            weighted = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LeakyReLU)
            return isinstance(module, weighted + LINEAR_MODULES) or type(module) in MODULES
        if node.op == "call_function":
            return node.target in FUNCTIONS
        return node.op != "call_method" or node.target in METHODS


def _dual(argument: Any, seen: dict[fx.Node, Dual]) -> Any:
    if isinstance(argument, fx.Node):
        return seen[argument]
    nested = isinstance(argument, tuple | list) and any(isinstance(each, fx.Node) for each in argument)
    if nested and all(isinstance(seen[each].value, Tensor) for each in argument if isinstance(each, fx.Node)):
        return [_dual(each, seen) for each in argument]  # tensors to concatenate
    return Dual(fx.node.map_arg(argument, lambda node: seen[node].value), None)


def _change(
    network: nn.Module, name: str, norm: str | None, delta: Update
) -> tuple[Tensor, Tensor | None] | None:
    """How weight and bias of a folded layer change along the update; None where they do not."""
    layer = network.get_submodule(name)
    weight, bias = layer.get_parameter("weight"), layer._parameters.get("bias")
    moved, moved_bias = delta.get(f"{name}.weight"), delta.get(f"{name}.bias")
    if norm is None:
        if moved is None and moved_bias is None:
            return None
        return torch.zeros_like(weight) if moved is None else moved, moved_bias
    found = network.get_submodule(norm)
    assert isinstance(found, nn.BatchNorm2d)
    if not any(f"{part}.{kind}" in delta for part in (name, norm) for kind in ("weight", "bias")):
        return None
    return _folded_change(weight, bias, moved, moved_bias, found, norm, delta)


def _folded_change(
    weight: Tensor,
    bias: Tensor | None,
    moved: Tensor | None,
    moved_bias: Tensor | None,
    norm: nn.BatchNorm2d,
    name: str,
    delta: Update,
) -> tuple[Tensor, Tensor]:
    """The derivative of W' = W gain / deviation and b' = (b - mean) gain / deviation + offset."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    zero = torch.zeros_like(norm.running_mean)
    inverse = torch.rsqrt(norm.running_var + norm.eps)
    gain, offset = delta.get(f"{name}.weight", zero), delta.get(f"{name}.bias", zero)
    scale = inverse if norm.weight is None else norm.weight * inverse
    change = weight * (gain * inverse)[:, None, None, None]
    if moved is not None:
        change = change + moved * scale[:, None, None, None]
    centred = (zero if bias is None else bias) - norm.running_mean
    shift = centred * gain * inverse + offset + (zero if moved_bias is None else moved_bias * scale)
    return change.detach(), shift.detach()


def _layer(folded: Folded, name: str, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer like the folded one with another weight and bias."""
    like = folded.layer(name)
    made: nn.Conv2d | nn.Linear
    if isinstance(like, nn.Linear):
        made = nn.Linear(like.in_features, like.out_features, bias is not None)
    else:
        made = nn.Conv2d(
            like.in_channels,
            like.out_channels,
            like.kernel_size,  # type: ignore[arg-type]
            like.stride,  # type: ignore[arg-type]
            like.padding,  # type: ignore[arg-type]
            like.dilation,  # type: ignore[arg-type]
            like.groups,
            bias is not None,
            like.padding_mode,
        )
    made.weight = nn.Parameter(weight.clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.clone())
    return made


def _without_bias(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        image: Tensor = layer._conv_forward(x, layer.weight, None)
        return image
    return nn.functional.linear(x, layer.weight)


def _norm(module: nn.BatchNorm2d, x: Dual) -> Dual:
    """A frozen batch norm that no convolution takes up; its own weights do not move (`_refuse_unknown`)."""
    if x.change is None:
        return Dual(module(x.value), None)
    assert module.running_var is not None
    scale = torch.rsqrt(module.running_var + module.eps)
    scale = scale if module.weight is None else scale * module.weight
    return Dual(module(x.value), x.change * scale[:, None, None])


def _covered(name: str, folded: Folded) -> bool:
    """Whether a parameter's update went into a layer's, its own or that of its batch norm."""
    layer = name.rpartition(".")[0]
    return layer in folded.norms or layer in folded.norms.values()


def _key(name: str) -> str:
    return name.replace(".", "/")
