"""torchvision beside a torch it was not built for: its compiled operators are missing, its import fails.

The wheel of the package index is built for CUDA. Beside a CPU torch its library does not load, and the
import stops at `operator torchvision::nms does not exist`, which takes timm and parts of transformers along.
Declaring the two operators it registers shapes for is enough for models and transforms.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch


@cache
def make_importable() -> torch.library.Library | None:
    """Declare torchvision's operators where its library does not load; call it before importing timm.

    Does nothing where torchvision is absent, imported already, or works. The result keeps them declared.
    """
    spec = None if "torchvision" in sys.modules else find_spec("torchvision")
    if spec is None or spec.origin is None or _loads(Path(spec.origin).parent):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


def _loads(folder: Path) -> bool:
    """Whether the compiled part of torchvision fits this torch; a copy without one has no operators."""
    for compiled in folder.glob("_C*.so"):
        try:
            torch.ops.load_library(str(compiled))  # type: ignore[no-untyped-call]
        except OSError:
            return False
        return True
    return False
