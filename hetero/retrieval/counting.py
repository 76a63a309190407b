"""Ranks by counting: how many gallery rows stand ahead of each relevant one. Exact, ties by gallery row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_PAIRWISE_LIMIT = 2**15  # relevant rows x gallery rows of a query below which comparing all at once is faster
_PAIRWISE_SCORES = 2**20  # scores compared at once: temporaries stay small beside any block
_SORTING_COST = 32  # sorting one score costs about as much as comparing this many


def count_ahead(scores: Floats, first: int, own: Floats, rows: Rows) -> Rows:
    """For one query: how many columns of `scores` stand ahead of each of its relevant rows, int64 [R].

    scores: float32 [n], of the gallery rows first, first + 1, ...; own: float32 [R], score of each relevant
    row; rows: int64 [R], which gallery rows they are. A column is ahead when it scores more, or as much and
    comes earlier. Relevant rows may lie outside these columns, so counts of parts of a gallery add up.
    """
    if not len(own):
        return np.zeros(0, np.int64)
    here = np.clip(rows - first, 0, len(scores))
    contenders = scores >= own.min()  # no other column can be ahead of any
    size = np.count_nonzero(contenders)
    if not size:
        return np.zeros(len(own), np.int64)
    if len(own) * len(scores) < _SORTING_COST * size:
        return _by_comparing(scores, own, here)
    # By index, several times faster than by mask; where most contend, picking costs more than sorting all.
    head = scores if 2 * size > len(scores) else scores[np.flatnonzero(contenders)]
    return _by_sorting(scores, np.sort(head), own, here)


def block_ranks(block: Floats, relevant: list[Rows]) -> Rows:
    """Ascending ranks of the relevant columns of each row of a block of whole rows, concatenated.

    block: float32 [b, N]; relevant: for each of the b queries, its relevant columns, int64.
    """
    sizes = np.array([len(rows) for rows in relevant])
    if sizes.max(initial=0) * block.shape[1] <= _PAIRWISE_LIMIT:
        owners, rows = np.repeat(np.arange(len(block)), sizes), np.concatenate(relevant)
        ranks = _all_at_once(block, owners, rows)
        return ranks[np.lexsort((ranks, owners))]
    found = (count_ahead(scores, 0, scores[rows], rows) for scores, rows in zip(block, relevant, strict=True))
    return np.concatenate([np.sort(ranks) for ranks in found])


def _by_comparing(scores: Floats, own: Floats, here: Rows) -> Rows:
    """The definition: earlier columns that score at least as much, later ones that score more."""

    def ahead(score: np.float32, place: int) -> int:
        earlier = int(np.count_nonzero(scores[:place] >= score)) if place else 0
        return earlier + (int(np.count_nonzero(scores[place:] > score)) if place < len(scores) else 0)

    return np.array([ahead(*pair) for pair in zip(own, here.tolist(), strict=True)], np.int64)


def _by_sorting(scores: Floats, head: Floats, own: Floats, here: Rows) -> Rows:
    """The same from the ascending best scores. A relevant row inside these columns ties with itself; only
    where more tie is their order looked at."""
    above = len(head) - np.searchsorted(head, own, side="right")
    least = len(head) - np.searchsorted(head, own, side="left")
    ahead = np.where(here == len(scores), least, above)
    tied = (least - above > 1) & (here > 0) & (here < len(scores))
    for score in np.unique(own[tied]):
        mine = tied & (own == score)
        ahead[mine] += np.searchsorted(np.flatnonzero(scores == score), here[mine])
    return ahead


def _all_at_once(block: Floats, owners: Rows, rows: Rows) -> Rows:
    """As `_by_comparing`, for all pairs of a block together."""
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
