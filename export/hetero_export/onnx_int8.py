"""ONNX, int8: statically quantised in the QDQ form, front (pixels) and tail (unit norm) in float.

Why unsigned 8-bit activations and signed 7-bit weights per channel (`reduce_range`): x86 processors
without VNNI multiply u8 by s8 in pairs and add the two products in 16 bits, which saturates for
full-range weights. 255 * 64 * 2 fits, so every processor computes the same: with an emulated Haswell the
embeddings were bit-identical, while full-range u8/s8 and s8/s8 lost several times more than with VNNI.
u8/u8 is as safe and a little closer to float32, but ran slower than float32 on networks of this size.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hetero_devices.errors import require
from hetero_devices.runtimes.base import INPUT
from hetero_export import onnx as onnx_files
from hetero_export.converting import Images, check_calibration, check_runs, converting

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_BLOCK = 8  # images per calibration run; all activations of a block are held at once


def quantise_onnx(source: Path, target: Path, calibration: Images) -> None:
    """Quantise the float32 file `source` into `target`; inputs, outputs and metadata stay the same.

    calibration: uint8 [K, S, S, 3] of the kind the model will meet (never test images).
    Raises DataError for unusable calibration images, ModelError when the model does not quantise.
    """
    with converting("int8 ONNX"), tempfile.TemporaryDirectory() as work:
        check_calibration(calibration)
        check_runs(source, calibration)
        model = _quantise(source, Path(work), calibration)
        onnx_files.set_metadata(model, onnx_files.read_metadata(source))
    onnx_files.save(model, target)


def _quantise(source: Path, work: Path, calibration: Images) -> Any:
    onnx = require("onnx", "export")
    shapes = require("onnxruntime.quantization.shape_inference", "export")
    ort = require("onnxruntime.quantization", "export")
    shapes.quant_pre_process(str(source), str(work / "prepared.onnx"))
    prepared = onnx.load(str(work / "prepared.onnx"))
    first, last = _weighted_span(prepared)
    nodes = list(prepared.graph.node)
    ort.quantize_static(
        str(work / "prepared.onnx"),
        str(work / "quantised.onnx"),
        _Blocks(calibration),
        quant_format=ort.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=ort.QuantType.QUInt8,
        weight_type=ort.QuantType.QInt8,
        nodes_to_exclude=[node.name for node in nodes[:first] + nodes[last + 1 :]],
        extra_options={"TensorQuantOverrides": _pixel_range(prepared, nodes[first].input[0])},
    )
    return onnx.load(str(work / "quantised.onnx"))


def _weighted_span(model: Any) -> tuple[int, int]:
    """Indices of the first and last node with weights: the float front and tail lie outside."""
    weighted = [index for index, node in enumerate(model.graph.node) if node.op_type in _WEIGHTED]
    return weighted[0], weighted[-1]


def _pixel_range(model: Any, tensor: str) -> dict[str, list[dict[str, Any]]]:
    """Pin the range of the normalised pixels to that of 0..255, whatever the calibration images hold."""
    front = require("onnx.utils", "export").Extractor(model).extract_model([INPUT], [tensor])
    evaluator = require("onnx.reference", "export").ReferenceEvaluator(front)
    size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    pixels = np.stack([np.full((size, size, 3), value, np.uint8) for value in (0, 255)])
    (normalised,) = evaluator.run(None, {INPUT: pixels})
    return {tensor: [{"rmin": normalised.min(), "rmax": normalised.max()}]}


class _Blocks:
    """Calibration images in blocks, in the form onnxruntime's calibrator reads."""

    def __init__(self, images: Images) -> None:
        starts = range(0, len(images), _BLOCK)
        self._blocks = iter([images[start : start + _BLOCK] for start in starts])

    def get_next(self) -> dict[str, Images] | None:
        block = next(self._blocks, None)
        return None if block is None else {INPUT: block}
