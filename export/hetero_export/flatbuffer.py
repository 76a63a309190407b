"""The TFLite file itself: metadata, tensor names, and where the network proper begins."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hetero_devices.errors import require

METADATA = "hetero"
"""Name of our metadata entry; its buffer holds a JSON object of strings."""

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_MODULE = re.compile(r"[\w.]+\.[A-Za-z0-9]+_(\w+)")  # package.Class_attribute, as the converter writes it


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The model with `metadata` as its entry `hetero`."""
    schema = require("ai_edge_litert.schema_py_generated", "export")
    model = _parse(content)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(json.dumps(dict(metadata), sort_keys=True).encode(), np.uint8)
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
    tools = require("ai_edge_litert.tools.flatbuffer_utils", "export")
    model = _parse(content)
    graph = model.subgraphs[0]
    front = set(graph.inputs)
    for operator in graph.operators:
        if tools.opcode_to_name(model, operator.opcodeIndex) in _WEIGHTED:
            break
        front.update(operator.outputs)
    return {_text(graph.tensors[index].name) for index in front}


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _parse(content: bytes) -> Any:
    return require("ai_edge_litert.tools.flatbuffer_utils", "export").read_model_from_bytearray(
        bytearray(content)
    )


def _pack(model: Any) -> bytes:
    tools = require("ai_edge_litert.tools.flatbuffer_utils", "export")
    return bytes(tools.convert_object_to_bytearray(model))
