"""Distance rank merge: two searches, each in its own space, merged into one ranked list. Nothing is trained.

Seo et al. (WACV 2025, arXiv 2301.03767) search the not yet re-embedded part of a gallery with the old model's
query, the re-embedded part with the new model's, and merge by distance. Distances of two spaces are on two
scales, so here each score is first put on the scale of its space's impostors: how many standard deviations it
lies above the mean similarity of images of different classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.retrieval import Hits, Ranking
from hetero.retrieval.counting import block_ranks
from hetero.retrieval.protocol import Protocol
from hetero.retrieval.scoring import BLOCK_BYTES, EXCLUDED, prepare, row_height, whole_rows
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, Space

Floats = npt.NDArray[np.float32]

_PAIRS = 100_000  # of different classes: the error of their mean is then far below their spread


@dataclass(frozen=True)
class Scale:
    """Of the similarities of different classes in one space."""

    mean: float
    deviation: float

    def __call__(self, scores: Floats) -> Floats:
        """Similarities float32 [...] -> standard deviations above the impostors' mean."""
        standard: Floats = ((scores - np.float32(self.mean)) / np.float32(self.deviation)).astype(np.float32)
        return standard


def impostor_scale(embeddings: Embeddings, seed: int = 0) -> Scale:
    """The scale of a space, from random pairs of images of different classes, best of training images.

    Raises DataError unless there are two classes and their similarities differ at all.
    """
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, len(embeddings), (2, _PAIRS)) if len(embeddings) else np.zeros((2, 0), np.int64)
    other = embeddings.labels[a] != embeddings.labels[b]
    a, b = a[other], b[other]
    if not len(a):
        raise DataError("a scale needs images of at least two classes")
    scores = np.einsum("nd,nd->n", embeddings.vectors[a], embeddings.vectors[b])
    deviation = float(scores.std())
    if not deviation > 1e-6:  # rounding
        raise DataError("all images of different classes are equally similar: these vectors say nothing")
    return Scale(float(scores.mean()), deviation)


@dataclass(frozen=True)
class Part:
    """A part of the gallery, the queries of the model that embedded it, and the scale of their space."""

    query: Embeddings
    gallery: Embeddings
    scale: Scale


def merged_ranking(parts: Sequence[Part], block_bytes: int = BLOCK_BYTES) -> Ranking:
    """One ranking over all parts: what `hetero.retrieval.summarise` turns into metrics.

    The gallery is the parts one after the other, which settles ties; a query does not find itself in any.
    Memory: the parts and about twice `block_bytes`. Raises DataError when the parts' queries are of other
    images, or a gallery id occurs in two parts; SpaceMismatch where a part's sides differ.
    """
    protocol = _protocol(parts)
    protocols = [prepare(part.query, part.gallery, False) for part in parts]
    queries, total = parts[0].query, len(protocol.order)
    height = row_height(len(queries), total, block_bytes)
    blocks = [
        whole_rows(part.query, part.gallery, own, 4 * height * max(1, len(part.gallery)))
        for part, own in zip(parts, protocols, strict=True)
    ]
    ranks = [np.zeros(0, np.int64)]
    for together in zip(*blocks, strict=True):
        start, scores = together[0][0], _joined([scores for _, scores in together], parts)
        ranks.append(block_ranks(scores, [protocol.relevant(start + i) for i in range(len(scores))]))
    candidates = total - protocol.excluded_counts()
    return Ranking(queries.ids, queries.labels, candidates, protocol.offsets, np.concatenate(ranks))


def merge_hits(hits: Sequence[Hits], scales: Sequence[Scale], sizes: Sequence[int], k: int) -> Hits:
    """The k best of several searches of one list of queries, each of its own part of the gallery.

    hits: of each part, rows counted within it; sizes: rows of each part. The result counts rows over the
    parts one after the other, and its scores are on the common scale. Where `hits` hold the k best of each
    part, these are the k best of all.
    """
    offsets = np.cumsum([0, *sizes[:-1]])
    rows = np.concatenate(
        [np.where(h.rows < 0, -1, h.rows + o) for h, o in zip(hits, offsets, strict=True)], 1
    )
    scores = np.concatenate([s(h.scores) for h, s in zip(hits, scales, strict=True)], 1)
    scores = np.where(rows < 0, -np.inf, scores).astype(np.float32)
    best = np.stack([np.lexsort((r, -s))[:k] for r, s in zip(rows, scores, strict=True)])
    return Hits(np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1))


def _joined(blocks: Sequence[Floats], parts: Sequence[Part]) -> Floats:
    """Scores of whole rows of all parts on one scale, float32 [b, N]; excluded rows last of all."""
    standard = [
        np.where(scores == EXCLUDED, -np.inf, part.scale(scores)).astype(np.float32)
        for scores, part in zip(blocks, parts, strict=True)
    ]
    return np.concatenate(standard, axis=1)


def _protocol(parts: Sequence[Part]) -> Protocol:
    first = parts[0].query
    for part in parts[1:]:
        if not np.array_equal(part.query.ids, first.ids) or not np.array_equal(
            part.query.labels, first.labels
        ):
            raise DataError("the parts were searched with other queries: embed one list with both models")
    ids = np.concatenate([part.gallery.ids for part in parts])
    labels = np.concatenate([part.gallery.labels for part in parts])
    nothing = np.broadcast_to(np.float32(0), (len(ids), 1))  # ids and labels are all a protocol reads
    return Protocol.of(first, Embeddings(nothing, ids, labels, Space("0" * 16, 1)))
