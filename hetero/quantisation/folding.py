"""The network as the converters see it, batch norms folded into the layers before them, and the way back."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hetero.models.foreign.scaling import ChannelAffine
from hetero.quantisation.operators import Kind, kind
from hetero_devices.errors import ModelError


@dataclass(frozen=True)
class Folded:
    """graph: the folded network; norms: for each layer by name, the batch norm that was folded into it."""

    graph: fx.GraphModule
    norms: dict[str, str | None]

    def layer(self, name: str) -> nn.Conv2d | nn.Linear:
        layer = self.graph.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        return layer


def fold(network: nn.Module) -> Folded:
    """A folded copy of `network` in eval mode: the same function up to float rounding.

    network: float32 [N, 3, S, S] -> float32 [N, D]. Raises ModelError when it cannot be traced by torch.fx,
    holds an operator that is not simulated, uses a layer twice or has none.
    """
    folded = fold_only(network)
    _check(folded.graph)
    return folded


def fold_only(network: nn.Module) -> Folded:
    """As `fold`, for any operators; ModelError when torch.fx does not trace the network."""
    graph = _traced(network)
    _drop_idle(graph)
    _undisguise(graph)
    norms = {str(node.target): _fold_into(node, graph) for node in _layers(graph)}
    graph.graph.lint()
    graph.recompile()
    return Folded(graph, norms)


def with_moved_offsets(folded: Folded) -> Folded:
    """A copy in which a linear layer that feeds only another one has no bias; the other has it instead.

    What the LiteRT converter does, hence where its int8 file rounds. The function stays the same.
    """
    moved = Folded(copy.deepcopy(folded.graph), folded.norms)
    for node in _layers(moved.graph):
        user = next(iter(node.users))
        names = (str(node.target), str(user.target))
        if len(node.users) == 1 and user.op == "call_module" and all(_is_linear(n, moved) for n in names):
            first, second = (moved.layer(name) for name in names)
            _move_offset(first, second)
    return moved


def unfold(network: nn.Module, weights: dict[str, tuple[Tensor, Tensor | None]], folded: Folded) -> nn.Module:
    """A copy of `network` that computes with the given weight and bias of each layer.

    Batch norms stay in place, so that the state dict is one of the same architecture, and only add the bias.
    """
    changed = copy.deepcopy(network).eval()
    with torch.no_grad():
        for name, (weight, bias) in weights.items():
            layer, norm = changed.get_submodule(name), folded.norms[name]
            own = _parameter(layer, "bias")
            _parameter(layer, "weight").copy_(weight)
            if norm is not None:
                assert bias is not None
                _pass_through(changed.get_submodule(norm), bias)
                bias = None
            if own is not None:
                own.copy_(torch.zeros_like(own) if bias is None else bias)
    return changed


def _traced(network: nn.Module) -> fx.GraphModule:
    copied = copy.deepcopy(network).cpu().eval()
    for module in copied.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010 - a value may be looked at again after its activation
    try:
        return fx.GraphModule(copied, _Tracer().trace(copied))
    except Exception as error:  # whatever the network's own code raises on a symbolic input
        raise ModelError(
            f"the network cannot be finished for int8: torch.fx does not trace it "
            f"({str(error).splitlines()[0]})"
        ) from error


class _Tracer(fx.Tracer):
    """Keeps layers whole that are not torch's own; parts timm's batch norms from their activation."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _disguised(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not isinstance(m, nn.BatchNorm2d) or not {"drop", "act"} <= m._modules.keys():
            return super().call_module(m, forward, args, kwargs)
        normalised = self.create_proxy("call_module", self.path_of_module(m), args, kwargs)
        return m.get_submodule("act")(m.get_submodule("drop")(normalised))


def _drop_idle(graph: fx.GraphModule) -> None:
    """Remove what does nothing in evaluation mode: it would hide that two operators follow each other."""
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and isinstance(
            graph.get_submodule(node.target), nn.Identity | nn.Dropout
        ):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.graph.erase_node(node)


def _disguised(module: nn.Module) -> bool:
    """Whether it computes what a layer of torch does: our scaling of pixels, timm's linear layer."""
    timms = isinstance(module, nn.Linear) and type(module).__module__ == "timm.layers.linear"
    return timms or isinstance(module, ChannelAffine)


def _undisguise(graph: fx.GraphModule) -> None:
    """Put the layers of torch in their places, under the same names."""
    for name, module in list(graph.named_modules()):
        if not _disguised(module):
            continue
        biased = module.bias is not None
        plain = (
            nn.Linear(module.in_features, module.out_features, biased)
            if isinstance(module, nn.Linear)
            else nn.Conv2d(3, 3, 1)
        )
        plain.load_state_dict(module.state_dict())
        graph.set_submodule(name, plain)


def _parameter(layer: nn.Module, name: str) -> Any:
    """Weight or bias: a parameter, a buffer where the network fixes it, or None."""
    return getattr(layer, name)


def _layers(graph: fx.GraphModule) -> list[fx.Node]:
    """Calls of convolutions and linear layers, in order."""
    return [
        node
        for node in graph.graph.nodes
        if node.op == "call_module" and isinstance(graph.get_submodule(node.target), nn.Conv2d | nn.Linear)
    ]


def _fold_into(node: fx.Node, graph: fx.GraphModule) -> str | None:
    """Fold the batch norm that alone uses a convolution's output; returns its name, or None."""
    user = next(iter(node.users))
    layer = graph.get_submodule(str(node.target))
    norm = graph.get_submodule(str(user.target)) if user.op == "call_module" else None
    if not isinstance(layer, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or len(node.users) > 1:
        return None
    graph.set_submodule(str(node.target), fuse_conv_bn_eval(layer, norm))
    user.replace_all_uses_with(node)
    graph.graph.erase_node(user)
    return str(user.target)


def _is_linear(name: str, folded: Folded) -> bool:
    return isinstance(folded.graph.get_submodule(name), nn.Linear)


@torch.no_grad()
def _move_offset(first: nn.Conv2d | nn.Linear, second: nn.Conv2d | nn.Linear) -> None:
    if first.bias is None:
        return
    offset = second.weight @ first.bias
    second.bias = nn.Parameter(offset if second.bias is None else second.bias + offset)
    first.bias = None


def _check(graph: fx.GraphModule) -> None:
    kinds = [kind(node, graph) for node in graph.graph.nodes]
    twice = [
        name for name, calls in Counter(str(node.target) for node in _layers(graph)).items() if calls > 1
    ]
    if twice:
        raise ModelError(f"the network cannot be finished for int8: the layer {twice[0]} is used twice")
    if Kind.LAYER not in kinds:
        raise ModelError("the network cannot be finished for int8: it has no convolution or linear layer")


def _pass_through(norm: nn.Module, bias: Tensor) -> None:
    """Let a batch norm in eval mode add `bias` and nothing else."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1)
    norm.get_parameter("weight").fill_((1 + norm.eps) ** 0.5)
    norm.get_parameter("bias").copy_(bias)
