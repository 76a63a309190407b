"""What a result depends on besides its recipe; written beside every figure."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import torch

import hetero
from hetero_devices import cpu

_PACKAGES = (
    "torch", "numpy", "onnx", "onnxruntime", "ai-edge-litert", "litert-torch", "ai-edge-quantizer",
    "executorch", "faiss-cpu", "pytorch-metric-learning", "torchmetrics", "timm", "transformers",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Machine, torch's threads, Python and library versions; null where something is not installed."""
    return {
        "hetero": hetero.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu.describe().model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
