"""Reading an ONNX graph: where the network proper begins and ends, its layers, its activations."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import ModelError, require
from hetero_devices.runtimes.base import INPUT
from hetero_export.layers import Layer, grouped

Array = npt.NDArray[Any]

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_TAIL = "unit_norm."
_BLOCK = 8  # images at once; all activations of a block are held in memory


def prepared(source: Path) -> Any:
    """The model with shapes inferred and fused as quantisers want it: a ModelProto."""
    preprocess = require("onnxruntime.quantization.shape_inference", "export").quant_pre_process
    utils = require("onnxruntime.quantization.quant_utils", "export")
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "prepared.onnx"
        preprocess(str(source), str(path))
        model = utils.load_model_with_shape_infer(path)
    for node in model.graph.node:  # parts of an inlined function have no names, and quantisers go by names
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
    return model


def span(model: Any) -> slice:
    """The nodes from the first to the last with weights; pixels' front and the tail lie outside.

    The tail is the unit norm, and a link where one was attached, whose weights bear the unit norm's name.
    """
    nodes = model.graph.node
    weighted = [i for i, n in enumerate(nodes) if n.op_type in _WEIGHTED and not n.input[1].startswith(_TAIL)]
    if not weighted:
        raise ModelError(f"the network has no {', '.join(_WEIGHTED)} to quantise: export fp32 only")
    return slice(weighted[0], weighted[-1] + 1)


def layers(model: Any) -> tuple[Layer, ...]:
    """The layers within `span`, named by their weights where those carry a module's name."""
    groups = grouped(model.graph.node[span(model)], lambda node: node.op_type in _WEIGHTED)
    names = [group[0].input[1].removesuffix(".weight") for group in groups]
    modules = {
        tensor.name.removesuffix(".weight") for tensor in model.graph.initializer if "." in tensor.name
    }
    shapes = _shapes(model)
    return tuple(
        Layer(
            name if name in modules and names.count(name) == 1 else group[0].name,
            group[0].op_type,
            _macs(group[0], shapes),
            tuple(node.name for node in group),
        )
        for name, group in zip(names, groups, strict=True)
    )


def _shapes(model: Any) -> dict[str, list[int]]:
    """Tensor name -> extents, a free batch as 1."""
    graph = model.graph
    shapes = {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    return shapes | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def _macs(node: Any, shapes: dict[str, list[int]]) -> int:
    """Multiply-accumulates of one image: outputs times the weights behind each of them."""
    outputs = int(np.prod(shapes.get(node.output[0], [0])))
    if node.op_type == "Conv":
        return outputs * int(np.prod(shapes[node.input[1]][1:]))
    return outputs * shapes.get(node.input[0], [0])[-1]


def extracted(model: Any, inside: slice) -> Any:
    """The nodes `inside` as a model of their own, with what crosses their border as its ports."""
    nodes = model.graph.node
    within, outside = nodes[inside], (*nodes[: inside.start], *nodes[inside.stop :])
    made = {name for node in within for name in node.output}
    constant = {tensor.name for tensor in model.graph.initializer}
    entering = {name for node in within for name in node.input if name} - made - constant
    leaving = made & {
        *(name for node in outside for name in node.input),
        *(output.name for output in model.graph.output),
    }
    return require("onnx.utils", "export").Extractor(model).extract_model(sorted(entering), sorted(leaving))


def front(model: Any, tensor: str, images: Array) -> Array:
    """What `tensor` holds for these images: uint8 [N, S, S, 3] -> any shape."""
    extracted = require("onnx.utils", "export").Extractor(model).extract_model([INPUT], [tensor])
    (values,) = require("onnx.reference", "export").ReferenceEvaluator(extracted).run(None, {INPUT: images})
    result: Array = values
    return result


def activations(model: Any, images: Array) -> Iterator[dict[str, Array]]:
    """The float tensors within `span`, with the one that enters it, for one block of images after another."""
    onnx, runtime = require("onnx", "export"), require("onnxruntime", "export")
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    wanted = _watchable(model)
    del watched.graph.output[:]
    watched.graph.output.extend(wanted)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = runtime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in wanted]
    for start in range(0, len(images), _BLOCK):
        values = session.run(names, {INPUT: np.ascontiguousarray(images[start : start + _BLOCK])})
        yield dict(zip(names, values, strict=True))


def _watchable(model: Any) -> Sequence[Any]:
    """Value infos of the float tensors that `activations` yields."""
    nodes = model.graph.node[span(model)]
    names = {nodes[0].input[0], *(output for node in nodes for output in node.output)}
    values = (*model.graph.value_info, *model.graph.output)
    return [v for v in values if v.name in names and v.type.tensor_type.elem_type == 1]  # 1: float32
