"""ONNX, half precision: weights and activations in float16, pixels and unit norm in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hetero_devices.errors import require
from hetero_export import onnx as onnx_files
from hetero_export import onnx_graph
from hetero_export.converting import converting

_PREFIX = "float16/"


def halve_onnx(source: Path, target: Path) -> dict[str, Any]:
    """Write the float32 file `source` in float16; input, output, unit norm and metadata stay the same.

    The unit norm stays in float32: in float16 a sum of squares overflows at a length of 256. Hence only the
    part between them is given to the converter, which would cast to float16 between nodes it was told to
    leave alone.
    Returns what a manifest should say of it; raises ModelError when the model does not convert.
    """
    with converting("fp16 ONNX"):
        convert = require("onnxruntime.transformers.float16", "export").convert_float_to_float16
        model = require("onnx", "export").load(str(source))
        inside = onnx_graph.span(model)
        inner = convert(onnx_graph.extracted(model, inside), keep_io_types=True)
        _replace(model, inside, inner)
        onnx_files.save(model, target)
    return {}


def _replace(model: Any, inside: slice, inner: Any) -> None:
    """Put a model of the nodes `inside` in their place; its tensors get a prefix, apart from its ends."""
    ends = {port.name for port in (*inner.graph.input, *inner.graph.output)}
    prefixed = require("onnx.compose", "export").add_prefix(inner, _PREFIX)
    for node in prefixed.graph.node:
        node.input[:] = [_unprefixed(name, ends) for name in node.input]
        node.output[:] = [_unprefixed(name, ends) for name in node.output]
    graph = model.graph
    outside = [*graph.node[: inside.start], *graph.node[inside.stop :]]
    used = {name for node in outside for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    for field in ("node", "initializer", "value_info"):
        graph.ClearField(field)
    graph.node.extend((*outside, *prefixed.graph.node))
    graph.initializer.extend((*weights, *prefixed.graph.initializer))
    require("onnxruntime.transformers.onnx_model", "export").OnnxModel.graph_topological_sort(graph)


def _unprefixed(name: str, ends: set[str]) -> str:
    plain = name.removeprefix(_PREFIX)
    return plain if plain in ends else name
