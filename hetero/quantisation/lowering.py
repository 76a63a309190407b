"""Activations as the converters write them: in the operators that the artefact computes with."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import fx, nn

from hetero.quantisation.folding import Folded
from hetero.quantisation.scheme import Scheme
from hetero_devices.errors import ModelError

Write = Callable[[fx.Graph, fx.Node], fx.Node]
"""(graph, input) -> the last of the nodes that compute it."""


def lowered(folded: Folded, scheme: Scheme) -> Folded:
    """A copy with some activations, and the pooling to one pixel, spelt out.

    SiLU in both formats, hard-swish in ONNX, the hard sigmoid in LiteRT. The function stays the same.
    ModelError for an adaptive pooling to more than one pixel.
    """
    graph = copy.deepcopy(folded.graph)
    for node in list(graph.graph.nodes):
        write = _written(node, graph, scheme)
        if write is not None:
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(write(graph.graph, node.all_input_nodes[0]))
            graph.graph.erase_node(node)
    graph.graph.lint()
    graph.recompile()
    return Folded(graph, folded.norms)


def is_sigmoid(node: fx.Node, graph: fx.GraphModule) -> bool:
    return _is(node, graph, nn.Sigmoid, (F.sigmoid, torch.sigmoid, "sigmoid"))


def _written(node: fx.Node, graph: fx.GraphModule, scheme: Scheme) -> Write | None:
    if _is(node, graph, nn.SiLU, (F.silu,)):
        return _silu
    if _is(node, graph, nn.Hardswish, (F.hardswish,)) and scheme.float_islands:
        return _hard_swish
    if _is(node, graph, nn.Hardsigmoid, (F.hardsigmoid,)) and scheme.folds_offsets:
        return _hard_sigmoid
    if _is(node, graph, nn.AdaptiveAvgPool2d, ()):
        size = graph.get_submodule(str(node.target)).output_size
        if size not in (1, (1, 1)):
            raise ModelError(
                f"AdaptiveAvgPool2d ({node.target}) to {size} cannot be finished for int8: only a pooling to "
                "one pixel is simulated"
            )
        return _mean
    return None


def _silu(graph: fx.Graph, x: fx.Node) -> fx.Node:
    return graph.call_function(operator.mul, (x, graph.call_function(torch.sigmoid, (x,))))


def _hard_swish(graph: fx.Graph, x: fx.Node) -> fx.Node:
    return graph.call_function(operator.mul, (x, graph.call_function(F.hardsigmoid, (x,))))


def _hard_sigmoid(graph: fx.Graph, x: fx.Node) -> fx.Node:
    moved = graph.call_function(operator.add, (x, 3.0))
    return graph.call_function(operator.mul, (graph.call_function(F.relu6, (moved,)), 1 / 6))


def _mean(graph: fx.Graph, x: fx.Node) -> fx.Node:
    return graph.call_function(torch.mean, (x, (2, 3)), {"keepdim": True})


def _is(node: fx.Node, graph: fx.GraphModule, module: type[nn.Module], calls: Iterable[object]) -> bool:
    if node.op == "call_module":
        return type(graph.get_submodule(str(node.target))) is module
    return node.op in ("call_function", "call_method") and node.target in tuple(calls)
