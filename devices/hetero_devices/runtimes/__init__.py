"""What executes a model file: one small session class per runtime, chosen by the file's format."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Final

from hetero_devices.errors import ModelError, require
from hetero_devices.runtimes.base import FORMATS, Format, Session
from hetero_devices.runtimes.executorch import ExecutorchSession, executorch_placement
from hetero_devices.runtimes.litert import LiteRTSession
from hetero_devices.runtimes.litert_placement import litert_placement
from hetero_devices.runtimes.onnx import OnnxSession
from hetero_devices.runtimes.onnx_placement import onnx_placement
from hetero_devices.runtimes.placement import Placement
from hetero_devices.silence import silent

__all__ = [
    "FORMATS",
    "NEEDS_TORCH",
    "Format",
    "Placement",
    "Session",
    "format_of",
    "import_runtime",
    "installed",
    "load",
    "placement",
]

NEEDS_TORCH: Final[frozenset[Format]] = frozenset({"pte"})
"""Formats whose runtime imports torch on a computer; all others run where there is none."""

_SESSIONS: dict[Format, type[OnnxSession | LiteRTSession | ExecutorchSession]] = {
    "onnx": OnnxSession,
    "tflite": LiteRTSession,
    "pte": ExecutorchSession,
}
_PLACEMENTS: dict[Format, Callable[[Path], Placement | None]] = {
    "onnx": onnx_placement,
    "tflite": litert_placement,
    "pte": executorch_placement,
}
_MODULES: dict[Format, tuple[str, str]] = {
    "onnx": ("onnxruntime", "device-onnx"),
    "tflite": ("ai_edge_litert.interpreter", "device-litert"),
    "pte": ("executorch.runtime", "executorch"),
}
_DISTRIBUTIONS = {"onnxruntime": "onnxruntime", "litert": "ai-edge-litert", "executorch": "executorch"}


def format_of(path: Path) -> Format:
    """The format a model file's suffix states; ModelError for any other suffix."""
    suffix = path.suffix.removeprefix(".")
    for known in _SESSIONS:
        if suffix == known:
            return known
    raise ModelError(
        f"{path.name} is no model this library runs: expected a name ending in .onnx, .tflite or .pte"
    )


def load(path: Path, *, threads: int = 1) -> Session:
    """Load a model file into the runtime its suffix names, on the CPU with `threads` threads.

    Raises MissingExtra when that runtime is not installed, ModelError when the file is absent, damaged or
    breaks the contract of `Session`.
    """
    session = _SESSIONS[format_of(path)]
    if not path.is_file():
        raise ModelError(f"no model file at {path}")
    return session(path, threads=threads)


def placement(path: Path) -> Placement | None:
    """Where the operators of a model file run; None where the runtime does not tell. Raises as `load`."""
    format = format_of(path)
    if not path.is_file():
        raise ModelError(f"no model file at {path}")
    return _PLACEMENTS[format](path)


def import_runtime(format: Format) -> None:
    """Import the runtime of a format now, e.g. before measuring; MissingExtra when it is not installed."""
    with silent():
        require(*_MODULES[format])


def installed() -> dict[str, str | None]:
    """Runtime -> installed version, None when it is not installed."""
    return {runtime: _version(distribution) for runtime, distribution in _DISTRIBUTIONS.items()}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
