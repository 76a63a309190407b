"""What can be written: for each format its exporter, its variants and what the manifest says of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hetero.models.deploy import Deploy
from hetero.recipes.recipe import MixedConfig
from hetero_devices.bundle import Precision
from hetero_devices.errors import DataError
from hetero_devices.runtimes import Format
from hetero_export.calibration import Calibration
from hetero_export.layers import Static
from hetero_export.litert import export_litert
from hetero_export.litert_int8 import Ends, StaticLitert, quantise_litert
from hetero_export.litert_weights import halve_litert, quantise_litert_dynamic
from hetero_export.onnx import OPSET, export_onnx
from hetero_export.onnx_dynamic import quantise_onnx_dynamic
from hetero_export.onnx_fp16 import halve_onnx
from hetero_export.onnx_int8 import StaticOnnx, quantise_onnx
from hetero_export.pte import export_program, lower_float
from hetero_export.pte_int8 import quantise_pte
from hetero_export.sensitivity import quantise_mixed

InputDtype = Literal["uint8", "int8", "float32"]
Write = Callable[[Path, Path, Calibration | None, MixedConfig], dict[str, Any]]
"""(what `Exporter.export` wrote, file to write, calibration, limits of `mixed`) -> for the manifest."""


INTEGER: tuple[Precision, ...] = ("int8", "int8_io", "uint8_io")
"""Static int8 throughout: what a student can be finished for."""


@dataclass(frozen=True)
class Variant:
    """One precision of a format. write: see `Write`; details: what is always true of it."""

    write: Write
    input_dtype: InputDtype
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Exporter:
    """export: writes float32; variants: all precisions, made from that file; tools: distributions used.

    What `export` writes is the float32 model, or a program to lower (pte).
    """

    export: Callable[[Deploy, Path, Mapping[str, str]], None]
    variants: Mapping[Precision, Variant]
    tools: tuple[str, ...]


def _plain(write: Callable[[Path, Path], dict[str, Any]]) -> Write:
    """A variant that needs no images."""
    return lambda source, target, calibration, mixed: write(source, target)


def _static(write: Callable[[Path, Path, Calibration], dict[str, Any]]) -> Write:
    return lambda source, target, calibration, mixed: write(source, target, needed(calibration))


def _mixed(static: Callable[[Path, Calibration], Static]) -> Write:
    return lambda source, target, calibration, mixed: quantise_mixed(
        static, source, target, needed(calibration), mixed
    )


def _ends(ends: Ends) -> Write:
    return _static(lambda source, target, calibration: quantise_litert(source, target, calibration, ends))


def needs_calibration(precisions: Collection[Precision]) -> bool:
    """Whether one of them is static int8, whose ranges come from images."""
    return not set(precisions) <= {"fp32", "fp16", "dynamic"}


def needed(calibration: Calibration | None) -> Calibration:
    """The calibration; DataError when there is none."""
    if calibration is None:
        raise DataError(
            "static int8 needs calibration images: give at least 8, better 100, from training data"
        )
    return calibration


def copied(source: Path, target: Path) -> dict[str, Any]:
    """The float32 file as it is."""
    target.write_bytes(source.read_bytes())
    return {}


_ONNX_SCHEME = "static QDQ, u8 activations, s8 weights in 7 bits per channel"
_LITERT_SCHEME = "static, s8 activations, s8 weights per channel, {} input and output"
_PTE_SCHEME = "static PT2E, s8 activations, s8 weights per channel, pixels and unit norm in float32"

EXPORTERS: Mapping[Format, Exporter] = {
    "onnx": Exporter(
        export=export_onnx,
        variants={
            "fp32": Variant(_plain(copied), "uint8", {"opset": OPSET}),
            "fp16": Variant(
                _plain(halve_onnx),
                "uint8",
                {"opset": OPSET, "scheme": "f16 weights and activations, unit norm in float32"},
            ),
            "dynamic": Variant(
                _plain(quantise_onnx_dynamic),
                "uint8",
                {"opset": OPSET, "scheme": "s8 weights; products in integers by the range of each run"},
            ),
            "int8": Variant(_static(quantise_onnx), "uint8", {"opset": OPSET, "scheme": _ONNX_SCHEME}),
            "mixed": Variant(
                _mixed(StaticOnnx),
                "uint8",
                {"opset": OPSET, "scheme": f"{_ONNX_SCHEME}; sensitive layers in float32"},
            ),
        },
        tools=("torch", "onnx", "onnxscript", "onnxslim", "onnxruntime"),
    ),
    "tflite": Exporter(
        export=export_litert,
        variants={
            "fp32": Variant(_plain(copied), "float32", {}),
            "fp16": Variant(_plain(halve_litert), "float32", {"scheme": "f16 weights"}),
            "dynamic": Variant(
                _plain(quantise_litert_dynamic),
                "float32",
                {"scheme": "s8 weights, products and convolutions in integers by the range of each run"},
            ),
            "int8": Variant(
                _static(quantise_litert), "float32", {"scheme": _LITERT_SCHEME.format("float32")}
            ),
            "int8_io": Variant(_ends("int8"), "int8", {"scheme": _LITERT_SCHEME.format("s8")}),
            "uint8_io": Variant(_ends("uint8"), "uint8", {"scheme": _LITERT_SCHEME.format("u8")}),
            "mixed": Variant(
                _mixed(StaticLitert),
                "float32",
                {"scheme": f"{_LITERT_SCHEME.format('float32')}; sensitive layers in float32"},
            ),
        },
        tools=("torch", "litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert"),
    ),
    "pte": Exporter(
        export=export_program,
        variants={
            "fp32": Variant(_plain(lower_float), "uint8", {"batch": 1}),
            "int8": Variant(_static(quantise_pte), "uint8", {"batch": 1, "scheme": _PTE_SCHEME}),
        },
        tools=("torch", "executorch", "torchao"),
    ),
}
