"""The anchor's gallery in compressed forms, and what each costs in retrieval."""

from __future__ import annotations

import numpy as np

from hetero.report import GalleryRow
from hetero.retrieval import MAP, RECALL_AT_1, Evaluation, bootstrap, paired_difference
from hetero.retrieval.codecs import Compressed, codec, compress
from hetero.runs.run import Run
from hetero.runs.sides import ANCHOR
from hetero_devices.space import Embeddings

_TRAINING = 20_000  # vectors a codec learns from: 78 for each of 256 centroids; faiss asks for 39 at least


def compressed_galleries(run: Run, gallery: Embeddings) -> dict[str, Compressed]:
    """`anchor CODEC` -> the gallery in that form; codecs that learn do so from training images' vectors.

    Raises DataError or MissingExtra as `hetero.retrieval.codecs.codec`.
    """

    def training() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        images = run.splits.train
        rows = np.unique(np.linspace(0, len(images) - 1, min(_TRAINING, len(images))).astype(np.int64))
        return run.anchor.embed("train", images).vectors[rows]

    return {
        f"{ANCHOR} {name}": compress(gallery, codec(name, gallery.space.dim, training))
        for name in run.recipe.gallery.codecs
    }


def gallery_row(compressed: Compressed, query: str, found: Evaluation, expected: Evaluation) -> GalleryRow:
    """`query` searching the compressed gallery (`found`) and the float32 gallery (`expected`)."""
    recall, before = (each.per_query(RECALL_AT_1) for each in (found, expected))
    precision, precision_before = (each.per_query(MAP) for each in (found, expected))
    return GalleryRow(
        query=query,
        codec=compressed.codec.name,
        bytes_per_vector=compressed.bytes_per_vector,
        recall=bootstrap(recall.values, clusters=recall.labels),
        recall_delta=paired_difference(recall, before, clusters=recall.labels).difference,
        map_delta=paired_difference(precision, precision_before, clusters=recall.labels).difference,
    )
