"""From runs, models and bundles to the rows and columns of the full graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hetero.runs.run import Run
from hetero.runs.sides import Sides, anchor_sides
from hetero.upgrades.graph import CLOUD, Row
from hetero.upgrades.pictures import TestImages
from hetero.upgrades.systems import Wanted, embedder, is_run, is_stored, open_system
from hetero_devices.bundle import MANIFEST, Bundle
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings

STUDENT = "student"


@dataclass(frozen=True)
class Artefacts:
    """Which files of a bundle become rows, and where each runs; empty: all, in this process."""

    formats: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


def sources(
    versions: Mapping[str, Path],
    students: Sequence[tuple[str, Path]],
    images: TestImages | None,
    artefacts: Artefacts,
    work: Path,
) -> tuple[list[Row], dict[str, Embeddings]]:
    """(query models, version -> gallery).

    A version is a run, which gives its anchor as the cloud's model, its student in torch and the artefacts of
    its bundle; or a trained model, or stored embeddings with query/ and gallery/. students: further (version,
    trained model or bundle). images: by default the test images of the first version that is a run.
    Raises DataError where there are no images or a path is none of these.
    """
    images = images or images_of(versions)
    rows, galleries = [], {}
    for version, path in versions.items():
        cloud = _cloud(path, images, work)
        galleries[version] = cloud.gallery
        rows.append(Row(CLOUD, version, cloud.query))
    for version, path in [*((v, p) for v, p in versions.items() if is_run(p)), *students]:
        rows += _phones(version, path, images, artefacts, work)
    return rows, galleries


def paragon(path: Path, images: TestImages | None, work: Path) -> Sides:
    """Query and gallery embeddings of a model trained without compatibility."""
    return _cloud(path, images, work)


def images_of(versions: Mapping[str, Path]) -> TestImages | None:
    """The test images of the first version that is a run, if one is."""
    found = next((path for path in versions.values() if is_run(path)), None)
    return TestImages.of_run(Run.existing(found)) if found else None


def _cloud(path: Path, images: TestImages | None, work: Path) -> Sides:
    if is_run(path):
        if images is None:
            raise DataError("name the test images by --queries")
        run = Run.existing(path)
        sides = images.at(run.recipe.data.size)
        return anchor_sides(run.anchor, sides)
    if is_stored(path) and not (path / "query").is_dir():
        raise DataError(
            f"{path} is one set of embeddings: a version has query/ and gallery/ inside its folder"
        )
    system = open_system(Wanted(path), images, work)
    assert system.gallery is not None
    return Sides(system.query, system.gallery)


def _phones(
    version: str, path: Path, images: TestImages | None, artefacts: Artefacts, work: Path
) -> Iterator[Row]:
    bundle = path / "bundle" if is_run(path) else path
    if not (bundle / MANIFEST).is_file():
        yield _row(STUDENT, version, Wanted(path), images, work)
        return
    if is_run(path):
        yield _row(STUDENT, version, Wanted(path), images, work)
    for model in Bundle.open(bundle).manifest.models:
        if artefacts.formats and model.format not in artefacts.formats:
            continue
        if artefacts.precisions and model.precision not in artefacts.precisions:
            continue
        wanted = Wanted(bundle, model.format, model.precision)
        name = f"{STUDENT} {model.format} {model.precision}"
        for device in artefacts.devices or (None,):
            role = f"{name} on {device}" if device else name
            yield _row(role, version, replace(wanted, device=device), images, work)


def _row(role: str, version: str, wanted: Wanted, images: TestImages | None, work: Path) -> Row:
    if is_stored(wanted.path):
        return Row(role, version, open_system(wanted, images, work).query)
    if images is None:
        raise DataError(f"{wanted.path} embeds images: name them by --queries")
    encoder, size = embedder(wanted, work)
    return Row(role, version, encoder(images.at(size).query))
