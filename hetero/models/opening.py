"""From a path to an encoder: a trained model's folder, or a bundle."""

from __future__ import annotations

from pathlib import Path

from hetero.models import store
from hetero.models.encoder import Encoder, RuntimeEncoder
from hetero_devices.bundle import MANIFEST, Bundle
from hetero_devices.errors import ModelError


def open_encoder(path: Path, format: str = "onnx", precision: str = "fp32") -> Encoder:
    """The model in `path`; format and precision choose the file where it is a bundle.

    Raises ModelError when `path` is neither, BundleError for a damaged bundle.
    """
    if (path / MANIFEST).is_file():
        bundle = Bundle.open(path)
        chosen = bundle.model(format, precision)
        manifest = bundle.manifest
        return RuntimeEncoder(bundle.path(chosen), manifest.space, manifest.preprocessing)
    if (path / store.DESCRIPTION).is_file():
        return store.load(path).encoder
    raise ModelError(f"{path} is neither a trained model's folder (RUN/student, RUN/anchor) nor a bundle")
