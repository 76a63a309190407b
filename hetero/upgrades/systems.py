"""One side of a comparison: whatever answers queries, from a run to the vectors a device returned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hetero.data.imageset import ImageSet
from hetero.models import store
from hetero.models.encoder import embed
from hetero.models.opening import open_encoder
from hetero.retrieval.codecs import load_gallery
from hetero.runs.run import Run
from hetero.upgrades.classifier import Head
from hetero.upgrades.ensembles import EnsembleEncoder, joined
from hetero.upgrades.pictures import TestImages
from hetero_devices.bundle import MANIFEST, Bundle
from hetero_devices.devices import build, embed_in_shards
from hetero_devices.devices.job import STATISTICS
from hetero_devices.devices.outcome import collect
from hetero_devices.devices.profile import load_profile
from hetero_devices.errors import DataError, ModelError
from hetero_devices.space import Embeddings

_SPACE = "space.json"
Embed = Callable[[ImageSet], Embeddings]


@dataclass(frozen=True)
class Wanted:
    """A side as the user names it.

    path: a run, a trained model's folder, a bundle, embeddings (a folder that `hetero embed` wrote, or one
    with query/ and gallery/), or what a device's runner left. format, precision: of a bundle; of a run they
    ask for its bundle instead of its student in torch. device: where the bundle runs; None is this process.
    gallery: stored embeddings to search among. head: folder of a trained model whose classes are named.
    members: further models that answer together with this one, as an ensemble.
    """

    path: Path
    format: str | None = None
    precision: str | None = None
    device: str | None = None
    gallery: Path | None = None
    head: Path | None = None
    members: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """How a report calls it."""
        more = f"and {len(self.members)} more" if self.members else None
        parts = (self.format, self.precision, self.device and f"on {self.device}", more)
        path = self.path if self.path.name else self.path.resolve()
        return " ".join([f"{path.parent.name}/{path.name}".lstrip("/"), *filter(None, parts)])


@dataclass(frozen=True)
class System:
    """query: embeddings of the test queries; gallery: of what they search among; head: to classify by."""

    name: str
    query: Embeddings
    gallery: Embeddings | None
    head: Head | None = None


def own_images(wanted: Wanted) -> TestImages | None:
    """The test images a side brings: a run its own, anything else none."""
    return TestImages.of_run(Run.existing(wanted.path)) if is_run(wanted.path) else None


def open_system(wanted: Wanted, images: TestImages | None, work: Path, *, classify: bool = False) -> System:
    """Embed the queries, and find or embed the gallery.

    Without a given gallery a run searches its anchor's, a model or bundle what it embeds itself, and stored
    embeddings themselves, each image among the others. work: finished shards of devices stay there.
    classify: open a head instead of a gallery.
    Raises DataError where images are needed and none are given, and as the parts do.
    """
    if not wanted.path.is_dir():
        raise DataError(f"there is no folder {wanted.path}: name a run, a model, a bundle or embeddings")
    if is_stored(wanted.path):
        return _stored(wanted, images, classify)
    encoder, size = embedder(wanted, work)
    if images is None:
        raise DataError(f"{wanted.path} embeds images: name them by --queries, or compare with a run")
    sides = images.at(size)
    query = encoder(sides.query)
    if classify:
        return System(wanted.name, query, None, _head(wanted))
    return System(wanted.name, query, _given_gallery(wanted) or _gallery(wanted, encoder, sides.gallery))


def _gallery(wanted: Wanted, encoder: Embed, images: ImageSet) -> Embeddings:
    if is_run(wanted.path) and not wanted.members:
        return Run.existing(wanted.path).anchor.embed("test", images)
    return encoder(images)


def _given_gallery(wanted: Wanted) -> Embeddings | None:
    return load_gallery(wanted.gallery) if wanted.gallery else None


def is_run(path: Path) -> bool:
    return (path / "recipe.json").is_file()


def is_stored(path: Path) -> bool:
    return any((path / part).is_file() for part in (_SPACE, f"query/{_SPACE}", STATISTICS))


def embedder(wanted: Wanted, work: Path) -> tuple[Embed, int]:
    """(images -> embeddings, side of the images in pixels)."""
    path = wanted.path
    if is_run(path):
        chosen = wanted.format or wanted.precision or wanted.device
        path = path / ("bundle" if chosen else "student")
    if (path / MANIFEST).is_file() and not wanted.members:
        return _of_bundle(Bundle.open(path), wanted, work)
    if wanted.format or wanted.precision or wanted.device:
        raise ModelError(
            f"{path} is no bundle: only a bundle has formats and precisions, and runs on devices"
        )
    encoder = open_encoder(path)
    if wanted.members:
        encoder = EnsembleEncoder([encoder, *(open_encoder(_model(member)) for member in wanted.members)])
    return lambda images: embed(encoder, images), encoder.preprocessing.size


def _model(path: Path) -> Path:
    """Of a run its student."""
    return path / "student" if is_run(path) else path


def _of_bundle(bundle: Bundle, wanted: Wanted, work: Path) -> tuple[Embed, int]:
    format, precision = wanted.format or "onnx", wanted.precision or "fp32"
    size, name = bundle.manifest.preprocessing.size, wanted.device
    if name is None:
        encoder = open_encoder(bundle.root, format, precision)
        return lambda images: embed(encoder, images), size
    model, profile = bundle.model(format, precision), load_profile(name)

    def on_device(images: ImageSet) -> Embeddings:
        with closing(build(name, profile)) as device:
            found = embed_in_shards(device, bundle.path(model), images.images, work)
        assert found.embeddings is not None
        return Embeddings(found.embeddings, images.ids, images.labels, bundle.manifest.space)

    return on_device, size


def _stored(wanted: Wanted, images: TestImages | None, classify: bool) -> System:
    if wanted.members:
        raise ModelError(f"{wanted.path} holds vectors: only models that embed images form an ensemble")
    if wanted.format or wanted.precision or wanted.device:
        raise ModelError(f"{wanted.path} holds vectors: only a bundle has a format, a precision and a device")
    head = Head.load(wanted.head) if classify and wanted.head else None
    if classify and head is None:
        raise ModelError(f"{wanted.path} has no class head: name a trained model that has one as its head")
    gallery = _given_gallery(wanted)
    if (wanted.path / STATISTICS).is_file():
        return System(wanted.name, _returned(wanted.path, gallery, images), gallery, head)
    if (wanted.path / "query").is_dir():
        query, own = (Embeddings.load(wanted.path / side) for side in ("query", "gallery"))
        return System(wanted.name, query, gallery or own, head)
    query = Embeddings.load(wanted.path)
    return System(wanted.name, query, gallery or query, head)


def _returned(path: Path, gallery: Embeddings | None, images: TestImages | None) -> Embeddings:
    """What a runner left: vectors of the query images, in the space of the gallery it is to be searched in.

    A runner does not know of spaces, so nothing can be checked but the dimension.
    """
    if gallery is None or images is None:
        raise DataError(f"{path} holds a device's bare vectors: name the query images and a gallery for them")
    vectors = collect(path.name, path, True).embeddings
    assert vectors is not None
    query = images.shown.query
    if len(vectors) != len(query):
        raise DataError(f"{path} holds {len(vectors)} vectors, there are {len(query)} query images")
    return Embeddings(np.ascontiguousarray(vectors), query.ids, query.labels, gallery.space)


def _head(wanted: Wanted) -> Head:
    """The given head, else the model's own: of a run its student's, of an ensemble all of them."""
    if wanted.head:
        return Head.load(wanted.head)
    heads = []
    for path in (wanted.path, *wanted.members):
        if not (_model(path) / store.DESCRIPTION).is_file():
            raise ModelError(f"{path} has no class head: name a trained model that has one as its head")
        heads.append(Head.load(_model(path)))
    return joined(heads)
