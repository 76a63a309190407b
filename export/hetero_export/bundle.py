"""Writing a bundle: every model file, golden vectors, card and manifest, or nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero import __version__
from hetero.models.deploy import Deploy
from hetero.models.encoder import TorchEncoder, check_images
from hetero.models.foreign.fusing import fused
from hetero.models.store import Model
from hetero.progress import track
from hetero.recipes.recipe import MixedConfig
from hetero_devices import runtimes
from hetero_devices.bundle import (
    CARD,
    GOLDEN_IMAGES,
    GOLDEN_VECTORS,
    MANIFEST,
    Bundle,
    FileRecord,
    Golden,
    Manifest,
    ModelFile,
    Precision,
    check_choice,
    model_name,
)
from hetero_devices.errors import BundleError, ModelError, require
from hetero_devices.files import atomic_directory, write_json
from hetero_devices.runtimes import Format
from hetero_devices.space import check_same
from hetero_devices.verify import cosine_distance
from hetero_export.calibration import Calibration, Images
from hetero_export.card import card
from hetero_export.converting import exportable
from hetero_export.formats import EXPORTERS, INTEGER, needed, needs_calibration
from hetero_export.quiet import quiet
from hetero_export.tolerance import tolerance

Vectors = npt.NDArray[np.float32]


def write_bundle(
    model: Model,
    folder: Path,
    *,
    name: str,
    golden: Images,
    source: dict[str, Any],
    calibration: Calibration | None = None,
    formats: Sequence[Format] = ("onnx", "tflite"),
    precisions: Sequence[Precision] = ("fp32", "int8"),
    mixed: MixedConfig | None = None,
    finished: Mapping[Format, Model] | None = None,
) -> Bundle:
    """Export `model` in every format and precision into `folder`, replacing an older bundle there.

    golden: uint8 [G, S, S, 3], images by which a device checks itself; their vectors are the torch network's
    in float32. source: where the weights come from, free JSON. calibration: for the precisions that are
    static int8. mixed: limits of the precision of that name. finished: by format, the model whose int8 files
    (all but `mixed`) are written instead of `model`'s; golden vectors stay those of `model`.
    Same models and images: same bytes.

    Raises RecipeError for an unknown format or precision, DataError for unusable images, ModelError for a
    network that does not convert or whose exports lose its space, SpaceMismatch for a finished model of
    another space, BundleError when `folder` is in the way, MissingExtra for pte without executorch.
    """
    check_choice(formats, precisions)
    if "pte" in formats:
        require("executorch", "executorch")  # now, not after the other formats
    _check_replaceable(folder)
    check_images(golden, model.deploy.preprocessing.size)
    if needs_calibration(precisions):
        needed(calibration)
    finished = finished or {}
    for format, other in finished.items():
        check_same(model.space, other.space, "the model", f"the model finished for {format} int8")
    vectors = _golden_vectors(model, golden)
    model = _fused(model)
    with atomic_directory(folder) as root:
        _write_golden(root, golden, vectors)
        models = [
            _record(root, format, precision, golden, vectors, found)
            for format in track(formats, "Exporting")
            for source_model, part in _by_model(precisions, model, finished.get(format))
            for precision, found in _write_models(
                root, format, part, source_model, name, calibration, mixed or MixedConfig()
            )
        ]
        (root / CARD).write_text(card(name, model, models, len(golden)))
        write_json(root / MANIFEST, _manifest(root, name, model, models, len(golden), source).to_json())
    return Bundle.open(folder)


def _by_model(
    precisions: Sequence[Precision], model: Model, finished: Model | None
) -> list[tuple[Model, list[Precision]]]:
    """Which precisions are written from which model."""
    if finished is None:
        return [(model, list(precisions))]
    integer = [precision for precision in precisions if precision in INTEGER]
    others = [precision for precision in precisions if precision not in INTEGER]
    return [pair for pair in ((model, others), (finished, integer)) if pair[1]]


def _check_replaceable(folder: Path) -> None:
    """Only a bundle or nothing may be replaced: never a folder of other things."""
    if folder.is_dir() and not (folder / MANIFEST).is_file() and any(folder.iterdir()):
        raise BundleError(f"{folder} exists and is not a bundle: choose another folder for the export")
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"{folder} is a file: choose a folder for the export")


def _fused(model: Model) -> Model:
    """The model with re-parameterisable blocks fused, in its own space: what the bundle is made of."""
    deploy = model.deploy
    network = fused(deploy.network, deploy.preprocessing.size)
    return (
        model
        if network is deploy.network
        else replace(model, deploy=Deploy(network, deploy.preprocessing, deploy.unit_norm))
    )


def _golden_vectors(model: Model, golden: Images) -> Vectors:
    vectors = TorchEncoder(exportable(model.deploy), model.space).encode(golden)
    if not np.isfinite(vectors).all():
        raise ModelError("the network returns NaN or infinity on the golden images: train it again")
    return vectors


def _write_golden(root: Path, golden: Images, vectors: Vectors) -> None:
    (root / GOLDEN_IMAGES).parent.mkdir()
    np.save(root / GOLDEN_IMAGES, golden)
    np.save(root / GOLDEN_VECTORS, vectors)


def _write_models(
    root: Path,
    format: Format,
    precisions: Sequence[Precision],
    model: Model,
    name: str,
    calibration: Calibration | None,
    mixed: MixedConfig,
) -> Iterator[tuple[Precision, dict[str, Any]]]:
    """All precisions of one format, made from its float32 file; what was found out while writing each."""
    exporter = EXPORTERS[format]
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / model_name(format, "fp32")
        exporter.export(model.deploy, source, _file_metadata(model, name))
        for precision in precisions:
            target = root / model_name(format, precision)
            yield precision, exporter.variants[precision].write(source, target, calibration, mixed)


def _file_metadata(model: Model, name: str) -> dict[str, str]:
    """What a model file says of itself when it has left its bundle."""
    return {
        "name": name,
        "space": json.dumps(model.space.to_json(), sort_keys=True),
        "preprocessing": json.dumps(model.deploy.preprocessing.to_json(), sort_keys=True),
        "input": "RGB pixels 0..255, channels last",
        "output": "embedding of unit length; similarity is the inner product",
        "producer": f"hetero {__version__}",
    }


def _record(
    root: Path,
    format: Format,
    precision: Precision,
    golden: Images,
    vectors: Vectors,
    found: dict[str, Any],
) -> ModelFile:
    """Run the written file on the golden images and record how close it came."""
    variant, file = EXPORTERS[format].variants[precision], model_name(format, precision)
    with quiet():
        embeddings = runtimes.load(root / file).run(golden)
    distance = float(cosine_distance(embeddings, vectors).max())
    return ModelFile.record(
        root,
        format,
        precision,
        input_dtype=variant.input_dtype,
        tolerance=tolerance(precision, distance, file),
        details={**variant.details, **found, "golden_distance": round(distance, 8)},
    )


def _manifest(
    root: Path, name: str, model: Model, models: Sequence[ModelFile], count: int, source: dict[str, Any]
) -> Manifest:
    golden = Golden(
        images=FileRecord.of(root, GOLDEN_IMAGES), vectors=FileRecord.of(root, GOLDEN_VECTORS), count=count
    )
    return Manifest(
        name=name,
        space=model.space,
        preprocessing=model.deploy.preprocessing,
        models=tuple(models),
        golden=golden,
        card=FileRecord.of(root, CARD),
        architecture=model.config.model_dump(mode="json"),
        **asdict(model.cost),
        tools=_tools({file.format for file in models}),
        source=source,
    )


def _tools(formats: set[Format]) -> dict[str, str]:
    """Distribution -> version of everything that made the files."""
    names = {tool for format in formats for tool in EXPORTERS[format].tools}
    return {"hetero": __version__} | {name: metadata.version(name) for name in sorted(names)}
