"""Gallery rows that are copies of an earlier row; found exactly, in one pass at bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

_CHUNK_BYTES = 16 * 2**20
_GLANCE = 16  # leading components: one cache line of a row tells nearly all rows apart


@dataclass(frozen=True)
class Twins:
    """rows[i] equals firsts[i], the earliest row with that vector; rows ascend. Both int64 [T]."""

    rows: Rows
    firsts: Rows

    def groups(self, count: int) -> Rows:
        """int64 [count]: for each gallery row the first row of its vector if it has twins, else -1."""
        found = np.full(count, -1, np.int64)
        found[self.rows] = self.firsts
        found[self.firsts] = self.firsts
        return found


def find_twins(vectors: npt.NDArray[np.float32]) -> Twins:
    """vectors: float32 [N, D]. Rows are hashed, and rows of one hash compared, so collisions do no harm.

    A hash of the leading components leaves few rows that could have a twin; only those are read whole.
    """
    suspects = _repeated(_hashes(vectors, width=_GLANCE))
    hashes = _hashes(vectors, suspects)
    order = np.argsort(hashes, kind="stable")  # rows ascend within a hash
    alone = np.ones(len(order), bool)
    same = hashes[order][1:] == hashes[order][:-1]
    alone[1:] &= ~same
    alone[:-1] &= ~same
    pending, keys = suspects[order[~alone]], hashes[order[~alone]]
    rows, firsts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    while len(pending):
        leaders = _leaders(pending, keys)
        equal = _equal(vectors, pending, leaders)
        twin = equal & (pending != leaders)
        rows.append(pending[twin])
        firsts.append(leaders[twin])
        pending, keys = pending[~equal], keys[~equal]  # share only the hash: another round without the leader
    found, earliest = np.concatenate(rows), np.concatenate(firsts)
    ascending = np.argsort(found)
    return Twins(found[ascending], earliest[ascending])


def _repeated(hashes: Hashes) -> Rows:
    """Rows whose hash occurs more than once, ascending."""
    ordered = np.sort(hashes)
    repeats = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.flatnonzero(np.isin(hashes, repeats)) if len(repeats) else np.empty(0, np.int64)


def _hashes(vectors: npt.NDArray[np.float32], rows: Rows | None = None, width: int | None = None) -> Hashes:
    """Multilinear hash of the bits of each row, or of the given rows, in their first `width`: uint64 [N]."""
    count, dim = len(vectors) if rows is None else len(rows), min(vectors.shape[1], width or 2**31)
    word = np.uint64 if dim % 2 == 0 else np.uint32
    random = np.random.default_rng(0).integers(0, 2**63, size=(dim,), dtype=np.uint64)
    odd = random * np.uint64(2) + np.uint64(1)
    hashes = np.empty(count, np.uint64)
    for chunk in _chunks(count, vectors.shape[1]):
        part = vectors[chunk] if rows is None else vectors[rows[chunk]]
        bits = (part[:, :dim] + np.float32(0)).view(word)  # adding 0 makes -0.0 and 0.0 one
        np.matmul(bits.astype(np.uint64, copy=False), odd[: bits.shape[1]], out=hashes[chunk])
    return hashes


def _leaders(pending: Rows, keys: Hashes) -> Rows:
    """For each pending row, the first pending row of its hash; pending is grouped by hash."""
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return np.repeat(pending[starts], np.diff(np.append(starts, len(pending))))


def _equal(vectors: npt.NDArray[np.float32], a: Rows, b: Rows) -> npt.NDArray[np.bool_]:
    equal = np.empty(len(a), bool)
    for chunk in _chunks(len(a), vectors.shape[1]):
        equal[chunk] = (vectors[a[chunk]] == vectors[b[chunk]]).all(axis=1)
    return equal


def _chunks(count: int, dim: int) -> list[slice]:
    step = max(1, _CHUNK_BYTES // (4 * max(1, dim)))
    return [slice(start, start + step) for start in range(0, count, step)]
