"""LiteRT, int8: every layer in integers, weights per channel; the unit norm in float32, never in 8 bits.

Ends: float32 unless asked otherwise, because LiteRT's C and JavaScript interfaces take nothing else. With
integer ends the whole graph is integer, as accelerators without a float unit need it. Eight bits hold
neither a unit length nor the range of a sum of squares, so that such a file ends before the unit norm and
whoever runs it normalises: `hetero_devices.runtimes` does, and its embeddings are those of float ends.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import require
from hetero_devices.files import atomic_file
from hetero_export import flatbuffer
from hetero_export.calibration import Calibration, Images, check_runs
from hetero_export.clipping import Range
from hetero_export.converting import converting
from hetero_export.layers import Layer, members

Ends = Literal["float32", "int8", "uint8"]

_OUTPUT = "embedding of any length: subtract the zero point, then divide by the length"
_PORTS: Mapping[Ends, Mapping[str, str]] = {
    "float32": {},
    "int8": {"input": "RGB pixels minus 128, channels last", "output": _OUTPUT},
    "uint8": {"input": "RGB pixels 0..255, channels last", "output": _OUTPUT},
}
"""What a file's metadata say of its ends where they are not those of the float32 file."""


def quantise_litert(
    source: Path, target: Path, calibration: Calibration, ends: Ends = "float32"
) -> dict[str, Any]:
    """Quantise the float32 file `source` into `target`; metadata stay the same, but for changed ends.

    ends: dtype of input and output. Integer input: the pixel, or pixel - 128 for int8. Integer output: the
    embedding before its unit norm.
    Returns what a manifest should say of it. Raises DataError for unusable calibration images, ModelError
    when the model does not quantise, RecipeError for an unknown layer to keep in float.
    """
    content = StaticLitert(source, calibration, ends).content(calibration.keep_float)
    with atomic_file(target) as temporary:
        temporary.write_bytes(content)
    output = {} if ends == "float32" else {"output": flatbuffer.output_quantisation(content)}
    return {"calibration": calibration.describe(), **output}


class StaticLitert:
    """A float32 file with the ranges of its activations, to be quantised any number of times."""

    def __init__(self, source: Path, calibration: Calibration, ends: Ends = "float32") -> None:
        """Run the calibration images. Raises DataError and ModelError as `quantise_litert`."""
        self._ends = ends
        with converting("int8 LiteRT"):
            check_runs(source, calibration.images)
            self._metadata = {**flatbuffer.read_metadata(source), **_PORTS[ends]}
            content = source.read_bytes()
            self._model = content if ends == "float32" else flatbuffer.without_unit_norm(content)
            self.layers: tuple[Layer, ...] = flatbuffer.layers(self._model)
            found = calibration.ranges(lambda: _activations(self._model, calibration.images))
            self._ranges = found | _pixel_ranges(self._model, calibration.images.shape[1])

    def content(self, keep_float: Collection[str] = ()) -> bytes:
        """The quantised file; deterministic. RecipeError for a layer that is not in `layers`."""
        excluded = members(self.layers, keep_float)
        with converting("int8 LiteRT"):
            content = _quantise(self._model, self._ranges, _recipe(self._ends, excluded))
            return flatbuffer.with_metadata(content, self._metadata)


def _quantise(model: bytes, ranges: Mapping[str, Range], recipe: Any) -> bytes:
    quantizer = require("ai_edge_quantizer.quantizer", "export")
    statistics = {
        name: {"min": np.array(low, np.float32), "max": np.array(high, np.float32)}
        for name, (low, high) in ranges.items()
    }
    result = quantizer.Quantizer(bytearray(model), recipe.get_quantization_recipe()).quantize(
        statistics, enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(result.quantized_model)


def _recipe(ends: Ends, excluded: Collection[str]) -> Any:
    """All operators int8, except the ends, the unit norm and the excluded ones; the later rule wins."""
    manager = require("ai_edge_quantizer.recipe_manager", "export")
    operators = require("ai_edge_quantizer.qtyping", "export").TFLOperationName
    recipe, keep = manager.RecipeManager(), manager.AlgorithmName.NO_QUANTIZE
    recipe.add_static_config(".*", operators.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    for end in (operators.INPUT, operators.OUTPUT):
        if ends == "float32":
            recipe.add_quantization_config(".*", end, algorithm_key=keep)
        elif ends == "uint8":
            recipe.add_quantization_config(".*", end, op_config=_unsigned())
    for name in excluded:  # a scope is the names of an operator's outputs, each followed by a semicolon
        recipe.add_quantization_config(f"^{re.escape(name)};$", operators.ALL_SUPPORTED, algorithm_key=keep)
    recipe.add_quantization_config(flatbuffer.UNIT_NORM, operators.ALL_SUPPORTED, algorithm_key=keep)
    return recipe


def _unsigned() -> Any:
    """uint8 for an end of the graph."""
    types = require("ai_edge_quantizer.qtyping", "export")
    end = types.TensorQuantizationConfig(num_bits=8, symmetric=False, dtype=types.TensorDataType.UINT)
    unused = types.TensorQuantizationConfig(num_bits=8, symmetric=True)  # an end has no weights
    integer = types.ComputePrecision.INTEGER
    return types.OpQuantizationConfig(end, unused, compute_precision=integer)


def _activations(model: bytes, images: Images) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Every float tensor that the graph computes, and its input, for one image after another."""
    litert = require("ai_edge_litert.interpreter", "export")
    interpreter = litert.Interpreter(
        model_content=model, num_threads=1, experimental_preserve_all_tensors=True
    )
    interpreter.allocate_tensors()
    watched = flatbuffer.computed_tensors(model)
    (image_index,) = (watched[name] for name in flatbuffer.input_tensors(model))
    for image in images:
        interpreter.set_tensor(image_index, image[None].astype(np.float32))
        interpreter.invoke()
        yield {name: interpreter.get_tensor(index) for name, index in watched.items()}


def _pixel_ranges(model: bytes, size: int) -> dict[str, Range]:
    """Ranges before the first layer: those of pixels 0..255, whatever the calibration images hold.

    They give the input scale 1 and zero point -128: bytes enter unrounded.
    """
    extremes = np.stack([np.full((size, size, 3), value, np.uint8) for value in (0, 255)])
    black, white = _activations(model, extremes)
    return {
        name: (
            float(min(black[name].min(), white[name].min())),
            float(max(black[name].max(), white[name].max())),
        )
        for name in flatbuffer.front_tensors(model)
    }
