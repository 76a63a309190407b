"""What gates.py and galleries.py share: one small student in its anchor's space, and two searches.

`classes` is the run's own test: other renderings of unseen characters, one gallery image a character.
`copies` looks for the very picture: every test image again, one pixel to the side, darker and noisy, among
all test images. Its neighbours lie much closer together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import results
from hetero.data.imageset import ImageSet
from hetero.models.encoder import embed
from hetero.recipes.resolve import resolve
from hetero.runs import Run
from hetero_devices.errors import ModelError
from hetero_devices.space import Embeddings

DATA = "the embedded glyphs"
OVERRIDES = (
    "anchor.fit.steps=700",
    "student.fit.steps=600",
    "student.views=2",
    "student.alone=false",
    "gates.criterion=false",
)


@dataclass(frozen=True)
class Task:
    """A search: query images, gallery images, and whose vectors the gallery holds."""

    name: str
    query: ImageSet
    gallery: Embeddings


def trained(folder: Path | None = None) -> Run:
    """The run, trained where that is still to be done: minutes on one core."""
    run = Run.open(folder or results.WORK / "gates", resolve("demo", OVERRIDES))
    _ = run.student
    return run


def tasks(run: Run) -> list[Task]:
    """The searches, each against a gallery that the float model or the anchor has embedded."""
    student, again = run.student.encoder, copies(run.splits.test, run.recipe.seed)
    originals = _labelled_by_image(run.splits.test)
    anchor = run.anchor.encoder
    if anchor is None:
        raise ModelError("the anchor of this run is a black box")
    return [
        Task("classes, anchor's gallery", run.test.query, embed(anchor, run.test.gallery)),
        Task("copies, anchor's gallery", again, embed(anchor, originals)),
        Task("copies, float student's gallery", again, embed(student, originals)),
    ]


def copies(images: ImageSet, seed: int) -> ImageSet:
    """Every picture once more: shifted by a pixel, 0.85 as bright, noise of 6 grey levels; its own label."""
    pixels = np.roll(images.images.astype(np.float32), 1, axis=2) * 0.85
    pixels += np.random.default_rng(seed).normal(0, 6, pixels.shape)
    marked = _labelled_by_image(images)
    names, labels = marked.class_names, marked.labels
    ids = images.ids + images.ids.max() + 1
    return ImageSet(np.clip(pixels, 0, 255).astype(np.uint8), labels, ids, images.groups, names)


def _labelled_by_image(images: ImageSet) -> ImageSet:
    labels = np.arange(len(images), dtype=np.int64)
    return ImageSet(images.images, labels, images.ids, images.groups, tuple(map(str, labels)))
