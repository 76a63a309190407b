"""ONNX, float32: uint8 pixels in, unit-norm embedding out, any batch size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hetero.models.deploy import Deploy
from hetero_devices.errors import require
from hetero_devices.files import atomic_file
from hetero_devices.runtimes.base import INPUT, OUTPUT
from hetero_export.converting import converting, exportable

OPSET = 18
"""The oldest operator set torch's exporter writes, hence the one most runtimes read."""


def export_onnx(deploy: Deploy, path: Path, metadata: Mapping[str, str]) -> None:
    """Write `deploy` to `path`: `image` uint8 [batch, S, S, 3] -> `embedding` float32 [batch, D].

    metadata: stored as the model's custom metadata. Raises ModelError when the network does not convert.
    """
    with converting("ONNX"):
        model = _convert(exportable(deploy))
        set_metadata(model, metadata)
    save(model, path)


def _convert(deploy: Deploy) -> Any:
    onnxslim = require("onnxslim", "export")
    require("onnxscript", "export")
    size = deploy.preprocessing.size
    # Two images: an example extent of 0 or 1 would be taken for a constant.
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        deploy,
        (example,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    return _without_traces(onnxslim.slim(program.model_proto))


def _without_traces(model: Any) -> Any:
    """Drop the exporter's notes (source lines and paths of the machine that exported)."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    return model


def set_metadata(model: Any, metadata: Mapping[str, str]) -> None:
    """Replace the custom metadata of a ModelProto."""
    model.ClearField("metadata_props")
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)


def read_metadata(path: Path) -> dict[str, str]:
    """The custom metadata of an ONNX file."""
    model = require("onnx", "export").load(str(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def save(model: Any, path: Path) -> None:
    """Write a ModelProto, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(serialised(model))


def serialised(model: Any) -> bytes:
    """A ModelProto as bytes; the same model gives the same bytes."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content
