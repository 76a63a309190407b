"""Ranking a gallery too large for blocks of whole rows: one pass over it, tile by tile.

The score of a relevant pair is needed before the gallery has been seen, so it is computed by itself
(`scoring.pair_scores`); every other row is compared with it by the score of its tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from hetero.retrieval.counting import count_ahead
from hetero.retrieval.protocol import Protocol
from hetero.retrieval.scoring import EXCLUDED, Tile, pair_scores, tile_shape, tiles
from hetero.retrieval.twins import find_twins
from hetero_devices.space import Embeddings

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
_EachRow = Callable[[Callable[[int], None], int], None]


@dataclass(frozen=True)
class _Job:
    """Relevant pairs of every query: rows int64 [P], their scores float32 [P], counts so far int64 [P].

    groups: int64 [N], see `Twins.groups`; None when no two gallery vectors are identical.
    """

    protocol: Protocol
    rows: Rows
    own: Floats
    ahead: Rows
    groups: Rows | None


def streamed_ranks(query: Embeddings, gallery: Embeddings, protocol: Protocol, block_bytes: int) -> Rows:
    """Ranks as in `Ranking.ranks`: int64 [P]. Memory: one tile, and three numbers a relevant pair."""
    job = _job(query, gallery, protocol)
    with _row_workers() as each_row:
        for tile in tiles(query, gallery, *tile_shape(len(query), len(gallery), block_bytes)):
            each_row(partial(_count, job, tile), len(tile.scores))
    owners = np.repeat(np.arange(len(query)), np.diff(protocol.offsets))
    return job.ahead[np.lexsort((job.ahead, owners))]


def _job(query: Embeddings, gallery: Embeddings, protocol: Protocol) -> _Job:
    parts = [protocol.relevant(i) for i in range(len(query))]
    rows = np.concatenate([np.empty(0, np.int64), *parts])
    owners = np.repeat(np.arange(len(query)), np.diff(protocol.offsets))
    twins = find_twins(gallery.vectors)
    groups = twins.groups(len(gallery)) if len(twins.rows) else None
    own = pair_scores(query, gallery, owners, rows)
    return _Job(protocol, rows, own, np.zeros(len(rows), np.int64), groups)


def _count(job: _Job, tile: Tile, i: int) -> None:
    """Add what stands ahead in one row of a tile."""
    number, scores = tile.first_query + i, tile.scores[i]
    pairs = slice(job.protocol.offsets[number], job.protocol.offsets[number + 1])
    rows, own = job.rows[pairs], job.own[pairs]
    if job.groups is not None:
        _settle_twins(
            scores, job.groups[tile.first_row : tile.first_row + len(scores)], job.groups[rows], own
        )
    inside = slice(*np.searchsorted(rows, (tile.first_row, tile.first_row + len(scores))))
    scores[rows[inside] - tile.first_row] = own[inside]
    excluded = job.protocol.excluded(number) - tile.first_row
    scores[excluded[(excluded >= 0) & (excluded < len(scores))]] = EXCLUDED
    job.ahead[pairs] += count_ahead(scores, tile.first_row, own, rows)


def _settle_twins(scores: Floats, columns: Rows, groups: Rows, own: Floats) -> None:
    """Columns identical to a relevant row take its score. columns, groups: twin group of each, or -1."""
    wanted, at = np.unique(groups, return_index=True)
    places = np.flatnonzero(columns >= 0)
    found = np.minimum(np.searchsorted(wanted, columns[places]), len(wanted) - 1)
    if len(wanted):
        same = wanted[found] == columns[places]
        scores[places[same]] = own[at[found[same]]]


@contextmanager
def _row_workers() -> Iterator[_EachRow]:
    """Something that calls a function for each row of a tile, on as many threads as torch uses."""
    import torch

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:

        def part(function: Callable[[int], None], first: int, count: int, step: int) -> None:
            for i in range(first, count, step):
                function(i)

        def each_row(function: Callable[[int], None], count: int) -> None:
            if threads == 1:
                part(function, 0, count, 1)
            else:  # numpy lets go of the interpreter's lock while it compares and sorts
                list(pool.map(lambda first: part(function, first, count, threads), range(threads)))

        yield each_row
