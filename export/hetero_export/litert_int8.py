"""LiteRT, int8: every layer in integers, weights per channel; input, output and the unit norm in float32.

float32 at the ends because LiteRT's C and JavaScript interfaces take nothing else; the embeddings are bit
for bit those of int8 ends. The unit norm in float, because 8 bits do not hold the range of a sum of squares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hetero_devices.errors import require
from hetero_devices.files import atomic_file
from hetero_devices.runtimes.base import INPUT, OUTPUT
from hetero_export import flatbuffer
from hetero_export.converting import Images, check_calibration, check_runs, converting

_SIGNATURE = "serving_default"
_FLOAT_TAIL = f"^unit_norm|{_SIGNATURE}_{OUTPUT}"  # of tensor names, see flatbuffer.rename_by_module

Ranges = dict[str, dict[str, Any]]


def quantise_litert(source: Path, target: Path, calibration: Images) -> None:
    """Quantise the float32 file `source` into `target`; inputs, outputs and metadata stay the same.

    calibration: uint8 [K, S, S, 3] of the kind the model will meet (never test images).
    Raises DataError for unusable calibration images, ModelError when the model does not quantise.
    """
    with converting("int8 LiteRT"):
        check_calibration(calibration)
        check_runs(source, calibration)
        content = _quantise(source.read_bytes(), calibration)
        content = flatbuffer.with_metadata(content, flatbuffer.read_metadata(source))
    with atomic_file(target) as temporary:
        temporary.write_bytes(content)


def _quantise(model: bytes, calibration: Images) -> bytes:
    quantizer = require("ai_edge_quantizer.quantizer", "export")
    recipe = _recipe()
    ranges = _ranges(model, recipe, calibration) | _pixel_ranges(model, recipe, calibration.shape[1])
    result = quantizer.Quantizer(bytearray(model), recipe.get_quantization_recipe()).quantize(
        ranges, enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(result.quantized_model)


def _recipe() -> Any:
    """All operators int8, except the ends and the tail; the later of two rules wins."""
    manager = require("ai_edge_quantizer.recipe_manager", "export")
    operators = require("ai_edge_quantizer.qtyping", "export").TFLOperationName
    recipe, keep = manager.RecipeManager(), manager.AlgorithmName.NO_QUANTIZE
    recipe.add_static_config(".*", operators.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    recipe.add_quantization_config(".*", operators.INPUT, algorithm_key=keep)
    recipe.add_quantization_config(".*", operators.OUTPUT, algorithm_key=keep)
    recipe.add_quantization_config(_FLOAT_TAIL, operators.ALL_SUPPORTED, algorithm_key=keep)
    return recipe


def _ranges(model: bytes, recipe: Any, images: Images) -> Ranges:
    """Smallest and largest value of each tensor over all images.

    The quantiser's own `calibrate` takes a moving average instead, which clips (cosine .884 for .989).
    """
    calibration = require("ai_edge_quantizer.calibrator", "export")
    statistics = require("ai_edge_quantizer.utils.qsv_utils", "export")
    calibrator = calibration.Calibrator(
        memoryview(model), num_threads=1, qsv_update_func=statistics.min_max_update
    )
    samples = [{INPUT: image[None].astype(np.float32)} for image in images]
    calibrator.calibrate({_SIGNATURE: samples}, recipe)
    ranges: Ranges = calibrator.get_model_qsvs()
    return ranges


def _pixel_ranges(model: bytes, recipe: Any, size: int) -> Ranges:
    """Ranges before the first layer: those of pixels 0..255, whatever the calibration images hold.

    They give the input scale 1 and zero point -128: bytes enter unrounded.
    """
    extremes = np.stack([np.full((size, size, 3), value, np.uint8) for value in (0, 255)])
    front = flatbuffer.front_tensors(model)
    return {name: range for name, range in _ranges(model, recipe, extremes).items() if name in front}
