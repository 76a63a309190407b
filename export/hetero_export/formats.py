"""What can be written: for each format its exporter, its quantisers and what the manifest says of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hetero.models.deploy import Deploy
from hetero_devices.bundle import Precision
from hetero_devices.errors import RecipeError
from hetero_devices.runtimes import Format
from hetero_export.converting import Images
from hetero_export.litert import export_litert
from hetero_export.litert_int8 import quantise_litert
from hetero_export.onnx import OPSET, export_onnx
from hetero_export.onnx_int8 import quantise_onnx

Quantiser = Callable[[Path, Path, Images], None]
"""(float32 file, file to write, calibration images)."""


@dataclass(frozen=True)
class Exporter:
    """export: writes float32; quantisers: from that file to other precisions; tools: distributions used."""

    export: Callable[[Deploy, Path, Mapping[str, str]], None]
    quantisers: Mapping[Precision, Quantiser]
    input_dtype: Literal["uint8", "float32"]
    details: Mapping[Precision, Mapping[str, Any]]
    tools: tuple[str, ...]

    @property
    def precisions(self) -> tuple[Precision, ...]:
        return ("fp32", *self.quantisers)


EXPORTERS: Mapping[Format, Exporter] = {
    "onnx": Exporter(
        export=export_onnx,
        quantisers={"int8": quantise_onnx},
        input_dtype="uint8",
        details={
            "fp32": {"opset": OPSET},
            "int8": {
                "opset": OPSET,
                "scheme": "static QDQ, u8 activations, s8 weights in 7 bits per channel",
            },
        },
        tools=("torch", "onnx", "onnxscript", "onnxslim", "onnxruntime"),
    ),
    "tflite": Exporter(
        export=export_litert,
        quantisers={"int8": quantise_litert},
        input_dtype="float32",
        details={
            "fp32": {},
            "int8": {"scheme": "static, s8 activations, s8 weights per channel, float32 input and output"},
        },
        tools=("torch", "litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert"),
    ),
}


def check_choice(formats: Sequence[str], precisions: Sequence[str]) -> None:
    """Raise RecipeError unless every format can be written in every precision, each named once."""
    _check_names("format", formats, tuple(EXPORTERS))
    for format, exporter in EXPORTERS.items():
        if format in formats:
            _check_names("precision", precisions, exporter.precisions)


def _check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise RecipeError(f"there is no {what} {name!r} to export: known are {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"{what}s to export are {', '.join(names) or 'none'}: name each wanted one once")
