"""ONNX, int8: statically quantised in the QDQ form, front (pixels) and tail (unit norm) in float.

Why unsigned 8-bit activations and signed 7-bit weights per channel (`reduce_range`): x86 processors
without VNNI multiply u8 by s8 in pairs and add the two products in 16 bits, which saturates for
full-range weights. 255 * 64 * 2 fits, so every processor computes the same: with an emulated Haswell the
embeddings were bit-identical, while full-range u8/s8 and s8/s8 lost several times more than with VNNI.
u8/u8 is as safe and a little closer to float32, but ran slower than float32 on networks of this size.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from hetero_devices.errors import require
from hetero_devices.files import atomic_file
from hetero_export import onnx as onnx_files
from hetero_export import onnx_graph
from hetero_export.calibration import Calibration, check_runs
from hetero_export.clipping import Range
from hetero_export.converting import converting
from hetero_export.layers import Layer, members


def quantise_onnx(source: Path, target: Path, calibration: Calibration) -> dict[str, Any]:
    """Quantise the float32 file `source` into `target`; inputs, outputs and metadata stay the same.

    Returns what a manifest should say of it. Raises DataError for unusable calibration images, ModelError
    when the model does not quantise, RecipeError for an unknown layer to keep in float.
    """
    content = StaticOnnx(source, calibration).content(calibration.keep_float)
    with atomic_file(target) as temporary:
        temporary.write_bytes(content)
    return {"calibration": calibration.describe()}


class StaticOnnx:
    """A float32 file with the ranges of its activations, to be quantised any number of times."""

    def __init__(self, source: Path, calibration: Calibration) -> None:
        """Run the calibration images. Raises DataError and ModelError as `quantise_onnx`."""
        with converting("int8 ONNX"):
            check_runs(source, calibration.images)
            self._metadata = onnx_files.read_metadata(source)
            self._model = onnx_graph.prepared(source)
            self.layers: tuple[Layer, ...] = onnx_graph.layers(self._model)
            found = calibration.ranges(lambda: onnx_graph.activations(self._model, calibration.images))
            self._ranges = found | _pixel_range(self._model)

    def content(self, keep_float: Collection[str] = ()) -> bytes:
        """The quantised file; deterministic. RecipeError for a layer that is not in `layers`."""
        excluded = members(self.layers, keep_float)
        with converting("int8 ONNX"):
            model = _quantise(self._model, self._ranges, excluded)
            onnx_files.set_metadata(model, self._metadata)
            return onnx_files.serialised(model)


def _quantise(prepared: Any, ranges: dict[str, Range], excluded: list[str]) -> Any:
    """What `onnxruntime.quantization.quantize_static` does after its own calibration."""
    onnx, ort = require("onnx", "export"), require("onnxruntime.quantization", "export")
    calibrate = require("onnxruntime.quantization.calibrate", "export")
    registry = require("onnxruntime.quantization.registry", "export")
    model = onnx.ModelProto()
    model.CopyFrom(prepared)
    inside = onnx_graph.span(prepared)
    outside = [*model.graph.node[: inside.start], *model.graph.node[inside.stop :]]
    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = require("onnxruntime.quantization.qdq_quantizer", "export").QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=True,
        weight_qType=ort.QuantType.QInt8,
        activation_qType=ort.QuantType.QUInt8,
        tensors_range=calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[],
        nodes_to_exclude=[*(node.name for node in outside), *excluded],
        op_types_to_quantize=sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry}),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def _pixel_range(model: Any) -> dict[str, Range]:
    """Pin the range of the normalised pixels to that of 0..255, whatever the calibration images hold."""
    tensor = model.graph.node[onnx_graph.span(model).start].input[0]
    size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    extremes = np.stack([np.full((size, size, 3), value, np.uint8) for value in (0, 255)])
    normalised = onnx_graph.front(model, tensor, extremes)
    return {tensor: (float(normalised.min()), float(normalised.max()))}
