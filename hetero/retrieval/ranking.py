"""Exact search: which gallery rows a query finds first, and at which rank its relevant rows stand.

Both searches score a block of queries against the whole gallery by one float32 matrix product, so memory is
the gallery plus one block, and every decision about a query is taken from the one row of scores computed for
it. No approximation, no truncation.

Ties. Equal scores are ordered by gallery row. Identical gallery vectors must therefore score identically,
which a BLAS does not promise: the bits of a dot product depend on where its column falls in the kernel's
tiles (MKL gives different bits to equal columns when the block is a single query). So rows that equal an
earlier row are found beforehand, and in every block they take the score of that earlier row. Different
vectors whose exact products agree may still differ in the last bit, as in any float32 search.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hetero.retrieval.protocol import Protocol
from hetero.retrieval.twins import Twins, find_twins
from hetero_devices.errors import DataError, SpaceMismatch
from hetero_devices.space import Embeddings, check_same

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

BLOCK_BYTES = 128 * 2**20
_PAIRWISE_LIMIT = 2**15  # relevant rows x gallery rows of a query below which comparing beats sorting
_PAIRWISE_SCORES = 2**20  # scores compared at once: temporaries stay small beside any block


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
    protocol = _protocol(query, gallery, across_spaces)
    rows = np.full((len(query), k), -1, np.int64)
    scores = np.full((len(query), k), -np.inf, np.float32)
    for start, block in _score_blocks(query, gallery, protocol, block_bytes):
        for i, best in enumerate(_top_rows(block, k), start):
            rows[i, : len(best)], scores[i, : len(best)] = best, block[i - start, best]
    return Hits(rows, scores)


def rank(
    query: Embeddings,
    gallery: Embeddings,
    *,
    block_bytes: int = BLOCK_BYTES,
    across_spaces: bool = False,
) -> Ranking:
    """The rank of every relevant gallery row (same label, another id) of every query, by counting, exactly.

    Memory, exclusion and errors as for `search`; plus one int64 per relevant pair.
    """
    protocol = _protocol(query, gallery, across_spaces)
    ranks = np.empty(protocol.offsets[-1], np.int64)
    for start, block in _score_blocks(query, gallery, protocol, block_bytes):
        stop = start + len(block)
        first, last = protocol.offsets[start], protocol.offsets[stop]
        ranks[first:last] = _block_ranks(block, [protocol.relevant(i) for i in range(start, stop)])
    candidates = len(gallery) - (protocol.own >= 0).astype(np.int64)
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


def _protocol(query: Embeddings, gallery: Embeddings, across_spaces: bool) -> Protocol:
    if not across_spaces:
        check_same(query.space, gallery.space)
    if query.space.dim != gallery.space.dim:
        raise SpaceMismatch(f"query vectors are {query.space.dim}-d, gallery vectors {gallery.space.dim}-d")
    query.check()
    gallery.check()
    return Protocol.of(query, gallery)


def _score_blocks(
    query: Embeddings, gallery: Embeddings, protocol: Protocol, block_bytes: int
) -> Iterator[tuple[int, Floats]]:
    """Yield (first query, scores float32 [b, N]); the array is reused by the next block."""
    import torch

    twins = find_twins(gallery.vectors)
    height = max(1, min(len(query), block_bytes // (4 * max(1, len(gallery)))))
    columns = _as_tensor(gallery.vectors).T
    buffer = torch.empty((height, len(gallery)))
    for start in range(0, len(query), height):
        part = np.array(query.vectors[start : start + height])
        scores = torch.mm(torch.from_numpy(part), columns, out=buffer[: len(part)])
        yield start, _settle(scores.numpy(), twins, protocol.own[start : start + height])


def _as_tensor(vectors: Floats) -> torch.Tensor:
    """A view without copying, also of a read-only memory map: nothing here writes to it."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(vectors)


def _settle(block: Floats, twins: Twins, own: Rows) -> Floats:
    """Give identical vectors identical scores, and keep each query from finding itself; in place."""
    if len(twins.rows):
        for scores in block:  # row by row: the temporary is one row, not a block
            scores[twins.rows] = scores[twins.firsts]
    present = np.flatnonzero(own >= 0)
    block[present, own[present]] = -np.inf
    return block


def _top_rows(block: Floats, k: int) -> Iterator[Rows]:
    """For each row of the block, its k best columns; ties by column, columns of -inf left out."""
    k = min(k, block.shape[1])
    for scores in block:
        if k == 0:
            yield np.empty(0, np.int64)
            continue
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        contenders = np.flatnonzero(
            (scores >= threshold) & (scores > -np.inf)
        )  # ascending: ties stay in order
        yield contenders[np.argsort(-scores[contenders], kind="stable")[:k]]


def _block_ranks(block: Floats, relevant: list[Rows]) -> Rows:
    """Ascending ranks of the relevant columns of each row of the block, concatenated."""
    sizes = np.array([len(rows) for rows in relevant])
    if sizes.max(initial=0) * block.shape[1] <= _PAIRWISE_LIMIT:
        owners, rows = np.repeat(np.arange(len(block)), sizes), np.concatenate(relevant)
        ranks = _ranks_by_comparing(block, owners, rows)
        return ranks[np.lexsort((ranks, owners))]
    return np.concatenate([np.sort(_ranks_by_sorting(s, r)) for s, r in zip(block, relevant, strict=True)])


def _ranks_by_comparing(block: Floats, owners: Rows, rows: Rows) -> Rows:
    """The definition, for all pairs at once: how many columns score more, or as much and come earlier."""
    columns = np.arange(block.shape[1])
    step = max(1, _PAIRWISE_SCORES // max(1, block.shape[1]))
    ranks = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), step):
        pairs = slice(start, start + step)
        scores, row = block[owners[pairs]], rows[pairs, None]  # [p, N], [p, 1]
        own = np.take_along_axis(scores, row, axis=1)
        ahead = (scores > own) | ((scores == own) & (columns < row))
        ranks[pairs] = ahead.sum(axis=1)
    return ranks


def _ranks_by_sorting(scores: Floats, rows: Rows) -> Rows:
    """The same for one query [N] with many relevant columns or a large gallery: N log N, not N x R."""
    own = scores[rows]
    head = np.sort(scores[scores >= own.min(initial=np.inf)])
    ranks = len(head) - np.searchsorted(head, own, side="right")
    tied = len(head) - np.searchsorted(head, own, side="left") - ranks > 1
    for score in np.unique(own[tied]):
        here = own == score
        ranks[here] += np.searchsorted(np.flatnonzero(scores == score), rows[here])
    return ranks
