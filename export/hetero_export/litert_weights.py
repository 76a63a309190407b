"""LiteRT, smaller weights: in half precision, or in int8 with ranges of the activations taken at each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hetero_devices.errors import require
from hetero_devices.files import atomic_file
from hetero_export import flatbuffer
from hetero_export.converting import converting


def halve_litert(source: Path, target: Path) -> dict[str, Any]:
    """Write the float32 file `source` with float16 weights; it computes in float32 unless told otherwise.

    Returns what a manifest should say of it; raises ModelError when the model does not convert.
    """
    with converting("fp16 LiteRT"):
        manager, operators = _tools()
        recipe = manager.RecipeManager()
        casting = manager.AlgorithmName.FLOAT_CASTING
        for operator in (operators.CONV_2D, operators.DEPTHWISE_CONV_2D, operators.FULLY_CONNECTED):
            recipe.add_weight_only_config(".*", operator, num_bits=16, algorithm_key=casting)
        _write(source, target, recipe)
    return {}


def quantise_litert_dynamic(source: Path, target: Path) -> dict[str, Any]:
    """Write the float32 file `source` with int8 weights; each layer quantises its input by that run's range.

    Fully connected layers get one scale per tensor: with one per channel, older runtimes (2.14) compute
    something else without an error. Depthwise convolutions stay in float32: XNNPACK has no such kernel for
    them, and the built-in one is several times slower. Returns and raises as `halve_litert`.
    """
    with converting("dynamic int8 LiteRT"):
        manager, operators = _tools()
        granularity = require("ai_edge_quantizer.qtyping", "export").QuantGranularity
        recipe = manager.RecipeManager()
        recipe.add_dynamic_config(
            ".*", operators.FULLY_CONNECTED, num_bits=8, granularity=granularity.TENSORWISE
        )
        recipe.add_dynamic_config(".*", operators.CONV_2D, num_bits=8, granularity=granularity.CHANNELWISE)
        _write(source, target, recipe)
    return {}


def _tools() -> tuple[Any, Any]:
    manager = require("ai_edge_quantizer.recipe_manager", "export")
    return manager, require("ai_edge_quantizer.qtyping", "export").TFLOperationName


def _write(source: Path, target: Path, recipe: Any) -> None:
    quantizer = require("ai_edge_quantizer.quantizer", "export")
    content = source.read_bytes()
    result = quantizer.Quantizer(bytearray(content), recipe.get_quantization_recipe()).quantize(
        enable_progress_bar=False, enable_progress_report=False
    )
    quantised = flatbuffer.with_metadata(bytes(result.quantized_model), flatbuffer.read_metadata(source))
    with atomic_file(target) as temporary:
        temporary.write_bytes(quantised)
