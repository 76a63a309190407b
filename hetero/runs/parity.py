"""One exported artefact against the float model it came from, both searching the anchor's gallery."""

from __future__ import annotations

import numpy as np

from hetero.report import HOST, ParityRow
from hetero.retrieval import (
    MAP,
    RECALL_AT_1,
    Evaluation,
    Hits,
    bootstrap,
    flips,
    overlap,
    paired_difference,
    search,
)
from hetero_devices.bundle import ModelFile
from hetero_devices.space import Embeddings
from hetero_devices.verify import cosine_distance

_TOP = 10


def parity_row(
    model: ModelFile,
    queries: tuple[Embeddings, Embeddings],
    gallery: Embeddings,
    evaluations: tuple[Evaluation, Evaluation],
    device: str = HOST,
) -> ParityRow:
    """Numbers and retrieval of an artefact beside those of the float model.

    queries, evaluations: of the artefact, then of the float model; the same images in one order. Intervals
    resample classes, since queries of one class share gallery images. device: where the artefact ran.
    """
    exported, reference = queries
    distance = cosine_distance(exported.vectors, reference.vectors)
    found, expected = (search(query, gallery, _TOP) for query in queries)
    recall, recall_before = (each.per_query(RECALL_AT_1) for each in evaluations)
    precision, precision_before = (each.per_query(MAP) for each in evaluations)
    clusters = recall.labels
    flipped, count = flips(recall_before, recall, clusters=clusters), len(recall.values)
    return ParityRow(
        artefact=model.file,
        format=model.format,
        precision=model.precision,
        cosine_distance_mean=float(distance.mean()),
        cosine_distance_median=float(np.median(distance)),
        cosine_distance_p99=float(np.quantile(distance, 0.99)),
        cosine_distance_max=float(distance.max()),
        max_abs_error=float(np.abs(exported.vectors - reference.vectors).max()),
        top1_identical=_same_first(found, expected),
        recall=bootstrap(recall.values, clusters=clusters),
        recall_delta=paired_difference(recall, recall_before, clusters=clusters).difference,
        map_delta=paired_difference(precision, precision_before, clusters=clusters).difference,
        top10_overlap=float(overlap(found, expected).mean()),
        queries=count,
        negative_flips=round(flipped.nfr.value * count),
        positive_flips=round(flipped.pfr.value * count),
        device=device,
    )


def _same_first(found: Hits, expected: Hits) -> float:
    return float((found.rows[:, 0] == expected.rows[:, 0]).mean())
