"""Inner products of queries with a gallery, a block at a time: float32, by matrix products."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hetero.retrieval.protocol import Judgements, Protocol
from hetero.retrieval.twins import Twins, find_twins
from hetero_devices.errors import SpaceMismatch
from hetero_devices.space import Embeddings, check_same

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

BLOCK_BYTES = 128 * 2**20
EXCLUDED = np.float32(-2)  # below every inner product of unit vectors, and finite
_TILE_QUERIES = 512  # rows of a tile: enough for the matrix product, and long rows to count in
_DECODED_BYTES = 64 * 2**20  # of a compressed gallery's vectors at once
_PAIRS = 2**16  # pairs multiplied at once
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Tile:
    """scores: float32 [b, n] of queries first_query... and gallery rows first_row...; reused by the next."""

    first_query: int
    first_row: int
    scores: Floats


def prepare(
    query: Embeddings, gallery: Embeddings, across_spaces: bool, judgements: Judgements | None = None
) -> Protocol:
    """Refuse sides that cannot be compared, and settle who may find whom."""
    if not across_spaces:
        check_same(query.space, gallery.space)
    if query.space.dim != gallery.space.dim:
        raise SpaceMismatch(f"query vectors are {query.space.dim}-d, gallery vectors {gallery.space.dim}-d")
    for side in (query, gallery):
        if not _unit(side.vectors):
            side.check()  # says what is wrong, and where
    return Protocol.of(query, gallery, judgements)


def whole_rows(
    query: Embeddings, gallery: Embeddings, protocol: Protocol, block_bytes: int
) -> Iterator[tuple[int, Floats]]:
    """Yield (first query, scores float32 [b, N]), ties and exclusions settled; reused by the next block."""
    twins = find_twins(gallery.vectors)
    for tile in tiles(
        query, gallery, row_height(len(query), len(gallery), block_bytes), max(1, len(gallery))
    ):
        yield tile.first_query, _settle(tile, twins, protocol)


def row_height(queries: int, gallery: int, block_bytes: int) -> int:
    """How many whole rows of scores one block holds; at least one."""
    return max(1, min(queries, block_bytes // (4 * max(1, gallery))))


def tile_shape(queries: int, gallery: int, block_bytes: int) -> tuple[int, int]:
    """(queries, gallery rows) of a tile of about `block_bytes`."""
    scores = max(1, block_bytes // 4)
    height = max(1, min(queries, _TILE_QUERIES, scores))
    return height, max(1, min(gallery, scores // height))


def tiles(query: Embeddings, gallery: Embeddings, height: int, width: int) -> Iterator[Tile]:
    """Every pair of a query and a gallery row once; the gallery is read from beginning to end, once.

    A compressed gallery is decoded in parts: as often as there are blocks of queries where a tile is wider
    than one part.
    """
    import torch

    buffer = torch.empty(height * width)
    for row in range(0, max(1, len(gallery)), width):
        count = min(width, len(gallery) - row)
        parts = _column_parts(gallery.vectors, row, count)
        for start in range(0, len(query), height):
            block = torch.from_numpy(np.array(query.vectors[start : start + height]))
            shape = (len(block), count)
            scores = buffer[: shape[0] * shape[1]].view(shape)
            for first, columns in parts():
                torch.mm(block, columns.T, out=scores[:, first : first + len(columns)])
            yield Tile(start, row, scores.numpy())


def _column_parts(vectors: Floats, row: int, count: int) -> Callable[[], Iterable[tuple[int, torch.Tensor]]]:
    """(first column, vectors) of the parts of a tile, anew at each call; an array is one part."""
    step = count if isinstance(vectors, np.ndarray) else _DECODED_BYTES // (4 * vectors.shape[1])
    step = max(1, step)

    def parts() -> Iterator[tuple[int, torch.Tensor]]:
        for first in range(0, max(1, count), step):
            yield first, _as_tensor(vectors[row + first : row + min(first + step, count)])

    if step < count:
        return parts
    whole = list(parts())
    return lambda: whole


def pair_scores(query: Embeddings, gallery: Embeddings, owners: Rows, rows: Rows) -> Floats:
    """Inner product of query owners[i] with gallery row rows[i]: float32 [P].

    Summed in float64 in one order and rounded, so it depends on the two vectors and on nothing else.
    """
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _PAIRS):
        pairs = slice(start, start + _PAIRS)
        products = query.vectors[owners[pairs]].astype(np.float64)
        products *= gallery.vectors[rows[pairs]]
        scores[pairs] = products.sum(axis=1)
    return scores


def _settle(tile: Tile, twins: Twins, protocol: Protocol) -> Floats:
    """Give identical vectors identical scores, and take excluded rows out; in place, on whole rows."""
    if len(twins.rows):
        for scores in tile.scores:  # row by row: the temporary is one row, not a block
            scores[twins.rows] = scores[twins.firsts]
    for i, scores in enumerate(tile.scores, tile.first_query):
        scores[protocol.excluded(i)] = EXCLUDED
    return tile.scores


def _unit(vectors: Floats, block: int = 16_384) -> bool:
    """Whether all are of unit length; False for NaN. One pass without temporaries."""
    for start in range(0, len(vectors), block):
        part = vectors[start : start + block]
        if not (np.abs(np.einsum("nd,nd->n", part, part) - 1) < _TOLERANCE).all():
            return False
    return True


def _as_tensor(vectors: Floats) -> torch.Tensor:
    """A view without copying, also of a read-only memory map: nothing here writes to it."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(vectors)
