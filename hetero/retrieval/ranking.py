"""Exact search: which gallery rows a query finds first, and at which rank its relevant rows stand.

Scores are float32 inner products, a block of queries at a time against the whole gallery, so memory is the
gallery plus one block. No approximation, no truncation. Where a block would hold too few whole rows for an
efficient product, `rank` passes over the gallery once instead, tile by tile; the gallery may then be a
memory-mapped file larger than one would want to read twice.

Ties. Equal scores are ordered by gallery row. Identical gallery vectors must therefore score identically,
which a BLAS does not promise: the bits of a dot product depend on where its column falls in the kernel's
tiles (MKL gives different bits to equal columns when the block is a single query). So rows that equal an
earlier row are found beforehand and are given one score. Different vectors whose exact products agree may
still differ in the last bit, as in any float32 search.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero.retrieval.counting import block_ranks
from hetero.retrieval.protocol import Judgements, Protocol
from hetero.retrieval.scoring import BLOCK_BYTES, EXCLUDED, prepare, row_height, whole_rows
from hetero.retrieval.streaming import streamed_ranks
from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_EFFICIENT_HEIGHT = 256  # queries below which a matrix product wastes time on packing the gallery
_SPARSE = 1_024  # streaming scores relevant pairs one by one: worth it when at most one in so many is one


@dataclass(frozen=True)
class Hits:
    """The first k gallery rows of each query, best first.

    rows: int64 [Q, k], -1 where the query has fewer than k candidates; scores: float32 [Q, k], -inf there.
    """

    rows: Rows
    scores: Floats


@dataclass(frozen=True)
class Ranking:
    """Where the relevant gallery rows of each query stand among all its candidates: all a metric needs.

    query_ids, labels: int64 [Q]. candidates: int64 [Q], gallery rows the query was compared with.
    ranks: int64 [P], 0 is the best; those of query i are `ranks[offsets[i]:offsets[i + 1]]`, ascending.
    """

    query_ids: Rows
    labels: Rows
    candidates: Rows
    offsets: Rows
    ranks: Rows

    def __len__(self) -> int:
        return len(self.query_ids)

    @property
    def relevant(self) -> Rows:
        """int64 [Q]: how many relevant gallery rows each query has."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Rows:
        """int64 [P]: the query to which each entry of `ranks` belongs."""
        return np.repeat(np.arange(len(self)), self.relevant)


def search(
    query: Embeddings,
    gallery: Embeddings,
    k: int,
    *,
    block_bytes: int = BLOCK_BYTES,
    across_spaces: bool = False,
) -> Hits:
    """The k gallery rows of highest similarity for each query, exactly.

    A query whose id is in the gallery does not find itself. Memory: gallery + about `block_bytes`.
    Raises SpaceMismatch unless both sides share a space (or `across_spaces`), DataError for unusable vectors.
    """
    if k < 1:
        raise DataError(f"k is {k}: ask for at least one hit")
    protocol = prepare(query, gallery, across_spaces)
    rows = np.full((len(query), k), -1, np.int64)
    scores = np.full((len(query), k), -np.inf, np.float32)
    for start, block in whole_rows(query, gallery, protocol, block_bytes):
        for i, best in enumerate(_top_rows(block, k), start):
            rows[i, : len(best)], scores[i, : len(best)] = best, block[i - start, best]
    return Hits(rows, scores)


def rank(
    query: Embeddings,
    gallery: Embeddings,
    *,
    judgements: Judgements | None = None,
    block_bytes: int = BLOCK_BYTES,
    across_spaces: bool = False,
) -> Ranking:
    """The rank of every relevant gallery row (same label, another id) of every query, by counting, exactly.

    `judgements` say what is relevant instead of labels, and what is to be left out of a query's ranking.
    Memory, exclusion and errors as for `search`; plus a few numbers per relevant pair.
    """
    protocol = prepare(query, gallery, across_spaces, judgements)
    if _streams(len(query), len(gallery), int(protocol.offsets[-1]), block_bytes):
        ranks = streamed_ranks(query, gallery, protocol, block_bytes)
    else:
        ranks = _whole_row_ranks(query, gallery, protocol, block_bytes)
    candidates = len(gallery) - protocol.excluded_counts()
    return Ranking(query.ids, query.labels, candidates, protocol.offsets, ranks)


def overlap(a: Hits, b: Hits) -> npt.NDArray[np.float64]:
    """Share of hits that two searches of one gallery have in common, per query: float64 [Q].

    1 where both found the same rows in whatever order; queries without candidates count as agreeing.
    """
    if a.rows.shape != b.rows.shape:
        raise DataError(f"hits of shape {a.rows.shape} and {b.rows.shape} cannot overlap: search alike")
    shared = [np.intersect1d(x[x >= 0], y[y >= 0]).size for x, y in zip(a.rows, b.rows, strict=True)]
    found = (a.rows >= 0).sum(axis=1)
    return np.where(found > 0, np.asarray(shared) / np.maximum(found, 1), 1.0)


def _streams(queries: int, gallery: int, relevant: int, block_bytes: int) -> bool:
    height = row_height(queries, gallery, block_bytes)
    return height < min(queries, _EFFICIENT_HEIGHT) and relevant * _SPARSE <= queries * gallery


def _whole_row_ranks(query: Embeddings, gallery: Embeddings, protocol: Protocol, block_bytes: int) -> Rows:
    ranks = np.empty(protocol.offsets[-1], np.int64)
    for start, block in whole_rows(query, gallery, protocol, block_bytes):
        stop = start + len(block)
        first, last = protocol.offsets[start], protocol.offsets[stop]
        ranks[first:last] = block_ranks(block, [protocol.relevant(i) for i in range(start, stop)])
    return ranks


def _top_rows(block: Floats, k: int) -> Iterator[Rows]:
    """For each row of the block, its k best columns; ties by column, excluded columns left out."""
    k = min(k, block.shape[1])
    for scores in block:
        if k == 0:
            yield np.empty(0, np.int64)
            continue
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        # Ascending, so that ties stay in order.
        contenders = np.flatnonzero((scores >= threshold) & (scores > EXCLUDED))
        yield contenders[np.argsort(-scores[contenders], kind="stable")[:k]]
