"""The TFLite file itself: metadata, tensor names, and where the network proper begins."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hetero_devices.errors import ModelError, require
from hetero_devices.runtimes.base import OUTPUT
from hetero_export.layers import Layer, grouped

METADATA = "hetero"
"""Name of our metadata entry; its buffer holds a JSON object of strings."""

SIGNATURE = "serving_default"

UNIT_NORM = f"^unit_norm|{SIGNATURE}_{OUTPUT}"
"""Regular expression of the names of the tensors that the unit norm computes."""

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_MODULE = re.compile(r"[\w.]+\.[A-Za-z0-9]+_(\w+)")  # package.Class_attribute, as the converter writes it


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The model with `metadata` as its only entry `hetero`."""
    schema = require("ai_edge_litert.schema_py_generated", "export")
    model = _parse(content)
    data = np.frombuffer(json.dumps(dict(metadata), sort_keys=True).encode(), np.uint8)
    for old in (entry for entry in model.metadata or [] if _text(entry.name) == METADATA):
        model.buffers[old.buffer].data = data
        return _pack(model)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = data
    model.buffers.append(buffer)
    entry.name, entry.buffer = METADATA, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    return _pack(model)


def read_metadata(path: Path) -> dict[str, str]:
    """The entry `hetero` of a TFLite file; empty when it has none."""
    model = _parse(path.read_bytes())
    for entry in model.metadata or []:
        if _text(entry.name) == METADATA:
            fields: dict[str, str] = json.loads(bytes(model.buffers[entry.buffer].data))
            return fields
    return {}


def rename_by_module(content: bytes) -> bytes:
    """Name tensors by the torch module they come from, e.g. `network/features/5/body/1`.

    The converter joins the class paths of all fused modules, which in a small network outweighs the
    int8 weights. Short names remain unique (`;n`) and tell quantisers which layer they see.
    """
    model = _parse(content)
    seen: Counter[str] = Counter()
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        name = module_path(_text(tensor.name))
        seen[name] += 1
        tensor.name = name if seen[name] == 1 else f"{name};{seen[name] - 1}"
    return _pack(model)


def module_path(name: str) -> str:
    """The attributes along the first module path of a converter's tensor name; other names unchanged."""
    parts = [_MODULE.fullmatch(part) for part in re.split(r";+", name)[0].split("/")[1:]]
    attributes = [part.group(1) for part in parts if part]
    return "/".join(attributes[1:] or attributes) or name  # without the outermost, our own wrapper


def front_tensors(content: bytes) -> set[str]:
    """Names of the tensors before the first layer with weights: the pixels, up to their normalisation."""
    model = _parse(content)
    graph = model.subgraphs[0]
    front = set(graph.inputs)
    for operator in graph.operators:
        if _type(model, operator) in _WEIGHTED:
            break
        front.update(operator.outputs)
    return {_name(graph, index) for index in front}


def computed_tensors(content: bytes) -> dict[str, int]:
    """Name -> index of the float32 tensors that are no constants."""
    float32 = require("ai_edge_litert.schema_py_generated", "export").TensorType.FLOAT32
    graph = _parse(content).subgraphs[0]
    indices = {*graph.inputs, *(index for operator in graph.operators for index in operator.outputs)}
    return {_name(graph, i): int(i) for i in sorted(indices) if graph.tensors[i].type == float32}


def input_tensors(content: bytes) -> list[str]:
    """Names of the graph's inputs."""
    graph = _parse(content).subgraphs[0]
    return [_name(graph, index) for index in graph.inputs]


def layers(content: bytes) -> tuple[Layer, ...]:
    """The layers, each named by the last torch module that its weighted operator contains."""
    model = _parse(content)
    graph = model.subgraphs[0]
    groups = grouped(graph.operators, lambda operator: _type(model, operator) in _WEIGHTED)
    if not groups:
        raise ModelError(f"the network has no {', '.join(_WEIGHTED)} to quantise: export fp32 only")
    outputs = [[_name(graph, operator.outputs[0]) for operator in group] for group in groups]
    modules = [names[0].partition(";")[0] for names in outputs]
    return tuple(
        Layer(
            module if modules.count(module) == 1 else names[0],
            _type(model, group[0]),
            _macs(model, group[0]),
            tuple(names),
        )
        for module, names, group in zip(modules, outputs, groups, strict=True)
    )


def _macs(model: Any, operator: Any) -> int:
    """Multiply-accumulates of one run: outputs times the weights behind each of them."""
    tensors = model.subgraphs[0].tensors
    outputs = int(np.prod(tensors[operator.outputs[0]].shape))
    weights = [int(extent) for extent in tensors[operator.inputs[1]].shape]  # [O, ..., I], or [1, h, w, C]
    depthwise = _type(model, operator) == "DEPTHWISE_CONV_2D"
    return outputs * int(np.prod(weights[1:3] if depthwise else weights[1:]))


def zero_padded_pools(content: bytes) -> bytes:
    """The model with minus infinity around maps of no negative value replaced by zero.

    So the converter words a padded max-pooling, and no 8-bit grid holds minus infinity, nor does XNNPACK
    take it. After a ReLU zero gives the same maximum, since every window holds a value of the map.
    """
    model = _parse(content)
    graph = model.subgraphs[0]
    makers = {index: operator for operator in graph.operators for index in operator.outputs}
    found = [
        operator
        for operator in graph.operators
        if _type(model, operator) == "PADV2"
        and np.isneginf(_constant(model, operator.inputs[2])).tolist() == [True]
        and _is_rectified(model, makers.get(operator.inputs[0]))
    ]
    for operator in found:
        _pad_by_zero(model, operator)
    return _pack(model) if found else content


def without_unit_norm(content: bytes) -> bytes:
    """The model with what enters its unit norm as its output; ModelError where there is no unit norm."""
    model = _parse(content)
    graph = model.subgraphs[0]
    tail = [o for o in graph.operators if re.search(UNIT_NORM, _name(graph, o.outputs[0]))]
    inside = {index for operator in tail for index in operator.outputs}
    computed = {index for operator in graph.operators for index in operator.outputs} - inside
    entering = {index for operator in tail for index in operator.inputs} & computed
    if len(entering) != 1:
        raise ModelError(f"{len(entering)} tensors enter the unit norm, expected one: export float ends only")
    graph.operators = [operator for operator in graph.operators if operator not in tail]
    graph.outputs = list(entering)
    (model.signatureDefs[0].outputs[0].tensorIndex,) = entering
    return _pack(model)


def output_quantisation(content: bytes) -> dict[str, Any]:
    """Scale and zero point of an integer output, for a manifest."""
    graph = _parse(content).subgraphs[0]
    parameters = graph.tensors[graph.outputs[0]].quantization
    scale, zero_point = float(parameters.scale[0]), int(parameters.zeroPoint[0])
    return {"scale": scale, "zero_point": zero_point, "unit_norm": "divide q - zero_point by its length"}


def _is_rectified(model: Any, operator: Any) -> bool:
    """Whether the operator's output is that of a ReLU, its own or a fused one."""
    if operator is None:
        return False
    schema = require("ai_edge_litert.schema_py_generated", "export").ActivationFunctionType
    fused = getattr(operator.builtinOptions, "fusedActivationFunction", schema.NONE)
    return _type(model, operator) in ("RELU", "RELU6") or fused in (schema.RELU, schema.RELU6)


def _pad_by_zero(model: Any, operator: Any) -> None:
    """PADV2 with a constant -> PAD, which pads by zero."""
    schema = require("ai_edge_litert.schema_py_generated", "export")
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.PAD
    code.version = 1
    model.operatorCodes.append(code)
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs = operator.inputs[:2]
    operator.builtinOptionsType = schema.BuiltinOptions.PadOptions
    operator.builtinOptions = schema.PadOptionsT()


def _constant(model: Any, index: int) -> Any:
    """A float32 tensor's stored values; empty where it is computed."""
    data = model.buffers[model.subgraphs[0].tensors[index].buffer].data
    return np.frombuffer(bytes(data if data is not None else b""), np.float32)


def _type(model: Any, operator: Any) -> str:
    tools = require("ai_edge_litert.tools.flatbuffer_utils", "export")
    return str(tools.opcode_to_name(model, operator.opcodeIndex))


def _name(graph: Any, index: int) -> str:
    return _text(graph.tensors[index].name)


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _parse(content: bytes) -> Any:
    return require("ai_edge_litert.tools.flatbuffer_utils", "export").read_model_from_bytearray(
        bytearray(content)
    )


def _pack(model: Any) -> bytes:
    tools = require("ai_edge_litert.tools.flatbuffer_utils", "export")
    return bytes(tools.convert_object_to_bytearray(model))
