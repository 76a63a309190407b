"""ONNX, dynamic int8: int8 weights, and ranges of the activations taken at each run.

Matrix products compute in integers. Convolutions keep float32 activations and only store their weights in
int8, one scale per output channel: an integer convolution with ranges of the run (ConvInteger) made the
whole of elastic-s four times slower than float32. The runtime expands them when it loads the file, which it
does for Cast and Mul but not for DequantizeLinear (three times slower, being redone at each run).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import require
from hetero_export import onnx as onnx_files
from hetero_export import onnx_graph
from hetero_export.converting import converting


def quantise_onnx_dynamic(source: Path, target: Path) -> dict[str, Any]:
    """Write the float32 file `source` with int8 weights; input, output and metadata stay the same.

    A range is that of the whole batch, so an image's embedding depends slightly on what shares its batch.
    Weights of matrix products keep to seven bits, as in `onnx_int8`.
    Returns what a manifest should say of it; raises ModelError when the model does not quantise.
    """
    with converting("dynamic int8 ONNX"):
        model = _integer_products(onnx_graph.prepared(source))
        _store_small(model)
        onnx_files.set_metadata(model, onnx_files.read_metadata(source))
        onnx_files.save(model, target)
    return {}


def _integer_products(model: Any) -> Any:
    """Every product with constant weights as MatMulInteger."""
    onnx, ort = require("onnx", "export"), require("onnxruntime.quantization", "export")
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "quantised.onnx"
        ort.quantize_dynamic(
            model,
            str(path),
            op_types_to_quantize=["MatMul"],  # to which a Gemm is rewritten
            per_channel=True,
            reduce_range=True,
            weight_type=ort.QuantType.QInt8,
        )
        return onnx.load(str(path))


def _store_small(model: Any) -> None:
    """Replace the weights of each convolution by int8 ones, a Cast and a Mul."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    names = {node.input[1] for node in model.graph.node if node.op_type == "Conv"} & weights.keys()
    for name in sorted(names):
        nodes, tensors = _expansion(name, require("onnx.numpy_helper", "export").to_array(weights[name]))
        model.graph.initializer.remove(weights[name])
        model.graph.initializer.extend(tensors)
        for node in reversed(nodes):
            model.graph.node.insert(0, node)


def _expansion(name: str, values: npt.NDArray[np.float32]) -> tuple[list[Any], list[Any]]:
    """Nodes that compute `name`, float32 [O, ...], from int8 codes and scales, and both of these."""
    onnx, arrays = require("onnx", "export"), require("onnx.numpy_helper", "export")
    largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
    scale = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
    codes = np.rint(values / scale).astype(np.int8)
    tensors = arrays.from_array(codes, f"{name}_int8"), arrays.from_array(scale, f"{name}_scale")
    cast = onnx.helper.make_node(
        "Cast", [tensors[0].name], [f"{name}_codes"], f"{name}_cast", to=onnx.TensorProto.FLOAT
    )
    multiply = onnx.helper.make_node("Mul", [f"{name}_codes", tensors[1].name], [name], f"{name}_expand")
    return [cast, multiply], list(tensors)
