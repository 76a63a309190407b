"""Gates on a bundle alone: for whoever has the bundle, labelled images, and the anchor's stored gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hetero import data
from hetero.data.imageset import ImageSet
from hetero.recipes.recipe import GateConfig, MeasureConfig
from hetero.report import Gate, ParityRow
from hetero.retrieval import evaluate
from hetero.retrieval.codecs import load_gallery
from hetero.runs.gates import gates
from hetero.runs.measuring import measure
from hetero.runs.parity import parity_row
from hetero_devices import devices
from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.devices import Device, HostDevice, Task
from hetero_devices.errors import BundleError, DataError
from hetero_devices.space import Embeddings, check_same


@dataclass(frozen=True)
class Search:
    """What a retrieval gate needs: labelled query images, and the anchor's embeddings to search among.

    Labels must mean the same on both sides; an id on both sides is one image and does not find itself.
    reference: the float model's embeddings of the query images, by default those of the bundle's fp32 model.
    """

    images: ImageSet
    gallery: Embeddings
    reference: Embeddings | None = None

    @classmethod
    def load(
        cls,
        source: str,
        gallery: Path,
        *,
        size: int,
        reference: Path | None = None,
        split: Literal["train", "validation", "test"] = "test",
        root: Path | None = None,
        seed: int = 0,
    ) -> Search:
        """Images as `hetero embed` names them, at `size` pixels, and stored embeddings.

        Raises DataError where either cannot be read.
        """
        images: ImageSet = getattr(data.load(source, size=size, root=root, seed=seed), split)
        return cls(images, load_gallery(gallery), Embeddings.load(reference) if reference else None)


def gate_bundle(
    bundle: Bundle,
    config: GateConfig,
    *,
    search: Search | None = None,
    formats: Sequence[str] | None = None,
    measuring: MeasureConfig | None = None,
    device: Device | None = None,
) -> tuple[Gate, ...]:
    """Every gate of `config` that needs no run: retrieval where there is a search, size, latency, placement.

    formats: only models of these. The models run on `device`, by default in processes without torch here.
    Raises SpaceMismatch when the gallery is of another space, BundleError when there is no float model to
    compare with, DataError when labels or ids do not fit.
    """
    device = device or HostDevice()
    models = [model for model in bundle.manifest.models if formats is None or model.format in formats]
    timed = config.latency_ms is not None or config.latency_ratio is not None
    tasks: tuple[Task, ...] = ("latency", "placement") if timed else ("placement",)
    parity = _parity(bundle, models, search, device) if search else ()
    latency, placement = measure(bundle, models, measuring or MeasureConfig(), device, tasks)
    return gates(config, parity=parity, models=models, latency=latency, placement=placement)


def _parity(
    bundle: Bundle, models: Sequence[ModelFile], search: Search, device: Device
) -> tuple[ParityRow, ...]:
    space, gallery, images = bundle.manifest.space, search.gallery, search.images
    check_same(space, gallery.space, f"the bundle {bundle.manifest.name}", "the gallery")
    found = {}
    for model in models:
        vectors, _ = devices.embed(device, bundle.path(model), images.images)
        found[model.file] = Embeddings(vectors, images.ids, images.labels, space)
    reference = float_reference(bundle, found, search)
    expected = evaluate(reference, gallery)
    return tuple(
        parity_row(
            model,
            (found[model.file], reference),
            gallery,
            (evaluate(found[model.file], gallery), expected),
        )
        for model in models
    )


def float_reference(bundle: Bundle, found: Mapping[str, Embeddings], search: Search) -> Embeddings:
    """What artefacts are compared with: the given reference, else the fp32 model among `found`, by file.

    Raises SpaceMismatch or DataError for a reference of other images, BundleError when there is neither.
    """
    return _given(search) or _float_model(bundle, found)


def _given(search: Search) -> Embeddings | None:
    reference = search.reference
    if reference is None:
        return None
    check_same(reference.space, search.gallery.space, "the reference", "the gallery")
    same = np.array_equal(reference.ids, search.images.ids)
    if not same or not np.array_equal(reference.labels, search.images.labels):
        raise DataError("the reference embeds other images than the queries: embed the same source and split")
    return reference


def _float_model(bundle: Bundle, found: Mapping[str, Embeddings]) -> Embeddings:
    for model in bundle.manifest.models:
        if model.precision == "fp32" and model.file in found:
            return found[model.file]
    raise BundleError(
        f"bundle {bundle.manifest.name} has no fp32 model to compare with: give the float model's embeddings "
        "of the queries as --reference"
    )
