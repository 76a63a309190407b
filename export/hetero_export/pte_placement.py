"""What XNNPACK takes over of a program, counted when it is lowered: a .pte file fixes it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from hetero_devices.errors import require
from hetero_devices.runtimes.placement import Operator, Placement, summarise

XNNPACK, PORTABLE = "XNNPACK", "portable"
"""The delegate, and ExecuTorch's own kernels, which compute the rest."""

_WEIGHTED = frozenset({"convolution", "linear", "addmm", "mm", "bmm", "matmul"})
_QUANTISE, _DEQUANTISE = "quantize_per", "dequantize_per"


def edge_placement(graph: fx.GraphModule) -> Placement:
    """Placement of a lowered program in ExecuTorch's edge dialect.

    XNNPACK fuses a quantised operator with the conversions beside it: a dequantisation, or a quantisation of
    an integer operator's result, is not counted; the others run as conversions.
    """
    delegates = require("executorch.exir.lowered_backend_module", "executorch")
    parts = [module.original_module for _, module, _ in delegates.get_lowered_submodules(graph)]
    operators = list(_operators(graph, PORTABLE))
    for part in parts:
        operators += _operators(part.graph_module, XNNPACK)
    return summarise(operators, len(parts), XNNPACK)


def _operators(graph: fx.GraphModule, backend: str) -> Iterator[Operator]:
    for node in graph.graph.nodes:
        name = _name(node)
        if name is None or (backend == XNNPACK and _fused(node, name)):
            continue
        conversion = name.startswith((_QUANTISE, _DEQUANTISE))
        shown = name.partition("_per")[0] if conversion else name
        yield Operator(shown, backend, name in _WEIGHTED, not conversion and _integer(node))


def _name(node: fx.Node) -> str | None:
    """`convolution` of aten.convolution.default; None for what computes nothing."""
    if node.op != "call_function" or not hasattr(node.target, "_schema"):
        return None
    name = str(node.target._schema.name).partition("::")[2]
    return None if name == "executorch_call_delegate" else name


def _integer(node: fx.Node) -> bool:
    """Whether a node reads what was dequantised and its result is quantised again, perhaps after a clamp."""
    reads = any((_name(source) or "").startswith(_DEQUANTISE) for source in node.all_input_nodes[:1])
    return (reads or _is_clamp_of_integer(node)) and _is_quantised(node)


def _is_quantised(node: fx.Node) -> bool:
    users = [(user, _name(user) or "") for user in node.users]
    return bool(users) and all(
        name.startswith(_QUANTISE) or (_is_clamp(name) and _is_quantised(user)) for user, name in users
    )


def _is_clamp_of_integer(node: fx.Node) -> bool:
    return _is_clamp(_name(node) or "") and any(
        (_name(source) or "").startswith(_DEQUANTISE)
        for before in node.all_input_nodes[:1]
        for source in before.all_input_nodes[:1]
    )


def _is_clamp(name: str) -> bool:
    return name in {"hardtanh", "relu", "clamp"}


def _fused(node: fx.Node, name: str) -> bool:
    """Whether XNNPACK runs no kernel for a conversion: it is the end of an integer operator."""
    if name.startswith(_DEQUANTISE):
        return "per_channel" in name or all(map(_integer, node.users))
    return name.startswith(_QUANTISE) and _integer(node.all_input_nodes[0])
