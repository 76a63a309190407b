"""Which kernels ONNX Runtime chose, after its own optimisation of the graph, by profiling one inference."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hetero_devices.errors import ModelError, require
from hetero_devices.runtimes.base import one_line
from hetero_devices.runtimes.placement import Operator, Placement, summarise

_FLOAT_WEIGHTED = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
)
_INTEGERS = frozenset({"int8", "uint8", "int16", "uint16"})
_FATAL = 4
_PROFILED = "_kernel_time"


def onnx_placement(path: Path) -> Placement:
    """Run the model once on a black image and count the kernels that ran.

    The optimised graph is not in the file, and reading it would need the package onnx; a profile does not.
    Raises MissingExtra, or ModelError when the model does not load or run.
    """
    runtime = require("onnxruntime", "device-onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _FATAL
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="hetero-placement-") as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            session.run(None, {port.name: _black(port) for port in session.get_inputs()})
            events = json.loads(Path(session.end_profiling()).read_text())
        except Exception as error:  # the runtime's exceptions share no narrower base
            raise ModelError(f"cannot profile {path.name} with ONNX Runtime: {one_line(error)}") from None
    return of_events(events)


def of_events(events: list[dict[str, Any]]) -> Placement:
    """Placement from the events of an ONNX Runtime profile; each node once, whatever the number of runs."""
    nodes = {
        event["name"]: event["args"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(_PROFILED)
    }
    return summarise(map(_operator, nodes.values()), None, None)


def _operator(node: dict[str, Any]) -> Operator:
    name = node["op_name"]
    read = {type_ for port in node.get("input_type_shape", []) for type_ in port}
    # Dynamically quantised operators take and give float, and multiply integers in between.
    integer = bool(read & _INTEGERS) or name.startswith("DynamicQuantize") or "Integer" in name
    return Operator(name, node["provider"], name in _FLOAT_WEIGHTED, integer)


def _black(port: Any) -> Any:
    extents = [extent if isinstance(extent, int) else 1 for extent in port.shape]
    return np.zeros(extents, np.uint8 if port.type == "tensor(uint8)" else np.float32)
