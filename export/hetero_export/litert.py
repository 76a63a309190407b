"""LiteRT (TFLite), float32: pixels 0..255 as float32 in, unit-norm embedding out, one image at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hetero.models.deploy import Deploy
from hetero_devices.errors import require
from hetero_devices.files import atomic_file
from hetero_devices.runtimes.base import INPUT, OUTPUT
from hetero_export import flatbuffer
from hetero_export.converting import converting, exportable


class _Signature(nn.Module):
    """Names the output; the name of the input comes from the call."""

    def __init__(self, deploy: Deploy) -> None:
        super().__init__()
        self.deploy = deploy

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {OUTPUT: self.deploy(image)}


def export_litert(deploy: Deploy, path: Path, metadata: Mapping[str, str]) -> None:
    """Write `deploy` to `path`: `image` float32 [1, S, S, 3] of 0..255 -> `embedding` float32 [1, D].

    The batch is one: a resized batch fails in XNNPACK for some networks. Tensors are named by the module
    they come from. metadata: a metadata entry, see `flatbuffer.read_metadata`.
    Raises ModelError when the network does not convert.
    """
    with converting("LiteRT"):
        content = flatbuffer.zero_padded_pools(_convert(exportable(deploy)))
        content = flatbuffer.rename_by_module(content)
        content = flatbuffer.with_metadata(content, metadata)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def _convert(deploy: Deploy) -> bytes:
    litert_torch = require("litert_torch", "export")
    size = deploy.preprocessing.size
    example = {INPUT: torch.zeros(1, size, size, 3)}
    content: bytes = litert_torch.convert(_Signature(deploy).eval(), sample_kwargs=example).model_content()
    return content
