"""Where new vectors come from, written down so that another process can open the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hetero.models.encoder import Encoder
from hetero.upgrades.backfill.plan import folder_digest
from hetero.upgrades.migration.sources import EmbeddedImages, NewVectors, StoredVectors
from hetero_devices.bundle import MANIFEST
from hetero_devices.errors import DataError, ModelError
from hetero_devices.files import sha256_file


def stored_source(folder: Path) -> dict[str, str]:
    """The description of a folder of embeddings; DataError when it is none."""
    StoredVectors(folder)
    return {"kind": "embeddings", "folder": str(folder.resolve()), "sha256": folder_digest(folder)}


def model_source(
    model: Path,
    images: str,
    split: str,
    *,
    root: Path | None = None,
    format: str = "onnx",
    precision: str = "fp32",
    seed: int = 0,
) -> dict[str, str]:
    """The description of images and the model that embeds them; format and precision are of a bundle."""
    fields = {"model": str(model.resolve()), "format": format, "precision": precision}
    path = Path(images).expanduser()
    data = {"images": str(path.resolve()) if path.exists() else images, "split": split, "seed": str(seed)}
    if root is not None:
        data["root"] = str(root.resolve())
    return {"kind": "model", **fields, **data, "sha256": _model_digest(model)}


def open_source(description: Mapping[str, str]) -> NewVectors:
    """What a description names; DataError when it has changed since it was written down."""
    match description.get("kind"):
        case "embeddings":
            folder = Path(description["folder"])
            vectors = StoredVectors(folder)
            _refuse_changed(folder, folder_digest(folder), description)
            return vectors
        case "model":
            return _open_model(description)
    raise DataError(f"new vectors of kind {description.get('kind')!r} are unknown to this version")


def open_new_model(description: Mapping[str, str]) -> Encoder:
    """The encoder of a model's description."""
    from hetero.models.opening import open_encoder

    return open_encoder(Path(description["model"]), description["format"], description["precision"])


def _open_model(description: Mapping[str, str]) -> NewVectors:
    from hetero import data

    model = Path(description["model"])
    _refuse_changed(model, _model_digest(model), description)
    encoder = open_new_model(description)
    root = Path(description["root"]) if "root" in description else None
    size, seed = encoder.preprocessing.size, int(description["seed"])
    splits = data.load(description["images"], size=size, root=root, seed=seed)
    return EmbeddedImages(encoder, getattr(splits, description["split"]))


def _refuse_changed(path: Path, digest: str, description: Mapping[str, str]) -> None:
    if digest != description["sha256"]:
        raise DataError(
            f"{path} has changed since the migration began: put it back, or roll back and plan again"
        )


def _model_digest(model: Path) -> str:
    """Both descriptions name the digests of the weights beside them."""
    for name in (MANIFEST, "model.json"):
        if (model / name).is_file():
            return sha256_file(model / name)
    raise ModelError(f"{model} is neither a trained model's folder nor a bundle")
