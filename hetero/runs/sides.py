"""Every model of a run on both sides of the test search: the embeddings that the matrix compares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hetero.data import QueryGallery
from hetero.data.imageset import ImageSet
from hetero.models.anchor import Anchor, Split
from hetero.models.encoder import embed
from hetero.models.store import Model, weights_digest
from hetero.runs.extension import LINK
from hetero.runs.run import Run
from hetero_devices import devices
from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.devices import Device
from hetero_devices.errors import DataError, ModelError
from hetero_devices.files import read_json, write_json
from hetero_devices.space import Embeddings

ANCHOR, STUDENT, ALONE = "anchor", "student", "alone"


@dataclass(frozen=True)
class Sides:
    """One model's embeddings of the query images and of the gallery images."""

    query: Embeddings
    gallery: Embeddings


def artefact_name(model: ModelFile) -> str:
    """How the matrix calls an exported student, e.g. `student onnx int8`."""
    return f"{STUDENT} {model.format} {model.precision}"


def all_sides(run: Run, bundle: Bundle, device: Device) -> dict[str, Sides]:
    """Anchor, student, student alone (torch), then every artefact of the bundle, run on `device`.

    Cached in RUN/embeddings by weights and images. Raises ModelError when the bundle is of another student.
    """
    check_shares_space(run)
    if bundle.manifest.source.get("weights_sha256") != weights_digest(run.student.deploy.network).hex():
        raise ModelError(f"the bundle {bundle.root} was exported from another student: export this run again")
    if bundle.manifest.space != run.student.space:
        raise ModelError(
            f"the bundle {bundle.root} carries a link into space {bundle.manifest.space}: score it against a "
            "gallery of that space, by 'hetero verify BUNDLE --queries IMAGES --gallery EMBEDDINGS'"
        )
    cache = _Cache(run.folder / "embeddings", run.test)
    sides = {ANCHOR: anchor_sides(run.anchor, run.test), STUDENT: model_sides(run.student, run.test)}
    if run.recipe.student.alone:
        sides[ALONE] = model_sides(run.alone, run.test)
    for model in bundle.manifest.models:
        sides[artefact_name(model)] = cache.get(model, partial(_on_device, bundle, model, device))
    return sides


def check_shares_space(run: Run) -> None:
    """Raise ModelError where the student's vectors cannot be compared with the anchor's as they are."""
    if run.recipe.student.dimension == "extended":
        raise ModelError(
            f"the student of {run.folder} extends the anchor's space: see 'hetero upgrade evaluate', or "
            f"verify a bundle exported with export.link={run.folder / 'student' / LINK}"
        )


def anchor_sides(anchor: Anchor, images: QueryGallery, split: Split = "test") -> Sides:
    """An anchor's embeddings of images of a split; stored ones are found by its name."""
    return Sides(anchor.embed(split, images.query), anchor.embed(split, images.gallery))


def model_sides(model: Model, images: QueryGallery) -> Sides:
    """A trained model's embeddings; DataError where it takes images of another size."""
    size, given = model.deploy.preprocessing.size, images.query.size
    if size != given:
        raise DataError(f"the model takes images of {size} px, the run's are of {given} px")
    return Sides(embed(model.encoder, images.query), embed(model.encoder, images.gallery))


def _on_device(bundle: Bundle, model: ModelFile, device: Device, images: ImageSet) -> Embeddings:
    vectors, _ = devices.embed(device, bundle.path(model), images.images)
    return Embeddings(vectors, images.ids, images.labels, bundle.manifest.space)


class _Cache:
    """Embeddings of artefacts, kept between evaluations; another file or other images are embedded anew."""

    def __init__(self, folder: Path, test: QueryGallery) -> None:
        self.folder, self.test = folder, test
        self.images = [_images_digest(side) for side in (test.query, test.gallery)]

    def get(self, model: ModelFile, compute: Callable[[ImageSet], Embeddings]) -> Sides:
        folder = self.folder / model.file
        key = {"model": model.sha256, "images": self.images}
        if not (folder / "key.json").is_file() or read_json(folder / "key.json") != key:
            (folder / "key.json").unlink(missing_ok=True)
            compute(self.test.query).save(folder / "query")
            compute(self.test.gallery).save(folder / "gallery")
            write_json(folder / "key.json", key)
        return Sides(Embeddings.load(folder / "query"), Embeddings.load(folder / "gallery"))


def _images_digest(images: ImageSet) -> str:
    digest = hashlib.sha256()
    for column in (images.images, images.ids, images.labels):
        digest.update(column.tobytes())
    return digest.hexdigest()
