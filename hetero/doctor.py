"""What is installed, what is missing, and what this machine can do."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Literal

from hetero_devices import cpu

State = Literal["ok", "missing", "note"]

EXTRAS = {
    "train": ("torch", "pydantic", "pyyaml", "rich", "safetensors", "pillow", "matplotlib", "jinja2"),
    "device-onnx": ("onnxruntime",),
    "device-litert": ("ai-edge-litert",),
    "export": ("onnx", "onnxscript", "onnxslim", "litert-torch", "ai-edge-quantizer"),
    "executorch": ("executorch",),
    "parquet": ("pyarrow",),
    "codecs": ("faiss-cpu",),
    "devices-browser": ("segno",),
    "search": ("pymoo",),
    "cluster": ("ray",),
    "timm": ("timm", "torchvision"),
    "huggingface": ("transformers",),
}


@dataclass(frozen=True)
class Finding:
    """One line of the examination; advice: what to do about it, empty when nothing."""

    name: str
    state: State
    detail: str
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """Python, every extra, and the processor; imports nothing heavy."""
    return [_python(), *(_extra(name, packages) for name, packages in EXTRAS.items()), *_processor()]


def _python() -> Finding:
    return Finding("python", "ok", sys.version.partition(" ")[0])


def _extra(name: str, packages: tuple[str, ...]) -> Finding:
    versions = {package: _version(package) for package in packages}
    missing = [package for package, version in versions.items() if version is None]
    if missing:
        return Finding(name, "missing", f"no {', '.join(missing)}", f"pip install 'hetero[{name}]'")
    return Finding(name, "ok", ", ".join(f"{p} {v}" for p, v in versions.items()))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> list[Finding]:
    found = cpu.describe()
    flags = found.flags or ()
    lines = [Finding("processor", "note", f"{found.model or found.machine}, {found.cores} cores")]
    lines.append(Finding("instruction sets", "note", ", ".join(flags) or "none of interest, or not told"))
    if found.machine == "x86_64" and not {"avx512_vnni", "avx_vnni"} & set(flags):
        advice = "trust this host's int8 figures only for files exported by this library"
        lines.append(
            Finding("int8 kernels", "note", "no VNNI: other tools' U8S8 models may saturate here", advice)
        )
    if not {"avx512_bf16", "amx_bf16", "bf16"} & set(flags):
        lines.append(Finding("bf16", "note", "emulated, slow", "train with anchor.fit.precision=fp32"))
    return lines
