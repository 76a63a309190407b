"""The exported artefact of one model: files, manifest, golden vectors and card, read strictly."""

from hetero_devices.bundle.manifest import (
    CARD,
    GOLDEN_IMAGES,
    GOLDEN_VECTORS,
    MANIFEST,
    PRECISIONS,
    SCHEMA_VERSION,
    FileRecord,
    Golden,
    Manifest,
    ModelFile,
    Precision,
    check_choice,
    model_name,
)
from hetero_devices.bundle.reader import Bundle

__all__ = [
    "CARD",
    "GOLDEN_IMAGES",
    "GOLDEN_VECTORS",
    "MANIFEST",
    "PRECISIONS",
    "SCHEMA_VERSION",
    "Bundle",
    "FileRecord",
    "Golden",
    "Manifest",
    "ModelFile",
    "Precision",
    "check_choice",
    "model_name",
]
