"""A gallery store of plain files, searched in this process.

STORE/store.json                  what this folder is
STORE/live.json                   the live version; replaced in one step, which is the cut-over
STORE/versions/v1/version.json    its space
STORE/versions/v1/rows.json       how many rows count; replaced after the rows themselves are on disk
STORE/versions/v1/vectors.f32     float32 [rows, D], and beyond `rows` perhaps the rest of a killed write
STORE/versions/v1/ids.i64, labels.i64

Vectors are memory-mapped for reading and written through file handles, since a full disk would kill a process
that writes through a map.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero.retrieval import search
from hetero.upgrades.stores.store import Ids, StoreHits, check_batch, require_version, version_number
from hetero.upgrades.stores.top import best_of
from hetero_devices.errors import DataError
from hetero_devices.files import disk_full_explained, read_json, write_json
from hetero_devices.space import Embeddings, Space, check_same

_KIND = {"kind": "hetero gallery store", "schema": 1}
_COLUMNS = {"vectors.f32": np.float32, "ids.i64": np.int64, "labels.i64": np.int64}
_BLOCK = 65_536


class FileStore:
    """See the module. One writer at a time; readers may come and go."""

    def __init__(self, folder: Path) -> None:
        """Open a store, or make one where nothing is; DataError when the folder is something else."""
        self.folder = folder
        if not (folder / "store.json").is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise DataError(f"{folder} is no gallery store and not empty: name another folder")
            write_json(folder / "store.json", _KIND)
        if read_json(folder / "store.json") != _KIND:
            raise DataError(f"{folder} is a gallery store of another version of hetero")

    @property
    def address(self) -> str:
        return str(self.folder)

    def versions(self) -> Mapping[str, Space]:
        self._require()
        folders = self.folder.glob("versions/*/version.json")
        spaces = {path.parent.name: Space.from_json(read_json(path)["space"]) for path in folders}
        return dict(sorted(spaces.items(), key=lambda pair: version_number(pair[0])))

    def live(self) -> str | None:
        self._require()
        path = self.folder / "live.json"
        return str(read_json(path)["version"]) if path.exists() else None

    def create(self, version: str, space: Space) -> None:
        version_number(version)
        if version in self.versions():
            raise DataError(f"{self.folder} has a version {version} already")
        write_json(self._of(version) / "rows.json", {"rows": 0})
        write_json(self._of(version) / "version.json", {"space": space.to_json()})

    def write(self, version: str, batch: Embeddings) -> None:
        check_batch(self._space(version), batch, version)
        rows, count = self._places(version, batch.ids)
        columns = (batch.vectors, batch.ids, batch.labels)
        with disk_full_explained(self.folder):
            for name, column in zip(_COLUMNS, columns, strict=True):
                _put(self._of(version) / name, rows, np.ascontiguousarray(column, _COLUMNS[name]))
        write_json(self._of(version) / "rows.json", {"rows": count})

    def ids(self, version: str) -> Ids:
        return np.array(self._embeddings(version).ids)

    def read(self, version: str, ids: Ids) -> Embeddings:
        stored = self._embeddings(version)
        order = np.argsort(stored.ids, kind="stable")
        place = np.searchsorted(stored.ids, ids, sorter=order).clip(max=max(0, len(order) - 1))
        rows = order[place] if len(order) else place
        if len(ids) and (not len(order) or (stored.ids[rows] != ids).any()):
            raise DataError(f"version {version} of {self.folder} lacks a row that was asked for")
        return stored.select(rows)

    def search(self, version: str, query: Embeddings, k: int, without: Ids | None = None) -> StoreHits:
        stored = self._embeddings(version)
        check_same(query.space, stored.space, "the query", f"version {version} of the gallery")
        out = np.empty(0, np.int64) if without is None else without
        empty = StoreHits(np.empty((len(query), 0), np.int64), np.empty((len(query), 0), np.float32))
        best = best_of([empty], k)
        for start in range(0, len(stored), _BLOCK):
            block = stored.select(np.arange(start, min(start + _BLOCK, len(stored))))
            kept = block.select(~np.isin(block.ids, out))
            if len(kept):
                best = best_of([best, _hits(query, kept, k)], k)
        return best

    def point(self, version: str) -> None:
        self._space(version)
        write_json(self.folder / "live.json", {"version": version})

    def drop(self, version: str) -> None:
        self._space(version)
        if self.live() == version:
            raise DataError(f"version {version} of {self.folder} is live: it cannot be dropped")
        (self._of(version) / "version.json").unlink()  # first: a half-deleted version is none
        shutil.rmtree(self._of(version))

    def close(self) -> None:
        """Nothing is held open."""

    def _embeddings(self, version: str) -> Embeddings:
        """The rows that count, memory-mapped."""
        space, folder = self._space(version), self._of(version)
        rows = int(read_json(folder / "rows.json")["rows"])
        shapes = {"vectors.f32": (rows, space.dim), "ids.i64": (rows,), "labels.i64": (rows,)}
        vectors, ids, labels = (_column(folder / name, shapes[name]) for name in _COLUMNS)
        return Embeddings(vectors, ids, labels, space)

    def _places(self, version: str, ids: Ids) -> tuple[Ids, int]:
        """Row of each id, those that are new after the last one, and how many rows there will be."""
        stored = self.ids(version)
        order = np.argsort(stored, kind="stable")
        place = np.searchsorted(stored, ids, sorter=order).clip(max=max(0, len(order) - 1))
        rows = order[place] if len(order) else np.zeros(len(ids), np.int64)
        new = stored[rows] != ids if len(order) else np.ones(len(ids), np.bool_)
        rows[new] = len(stored) + np.arange(int(new.sum()))
        return rows.astype(np.int64), len(stored) + int(new.sum())

    def _space(self, version: str) -> Space:
        return require_version(self.versions(), version, self.address)

    def _of(self, version: str) -> Path:
        return self.folder / "versions" / version

    def _require(self) -> None:
        if not (self.folder / "store.json").is_file():
            raise DataError(f"the gallery store {self.folder} is gone")


def _hits(query: Embeddings, gallery: Embeddings, k: int) -> StoreHits:
    hits = search(query, gallery, k)
    return StoreHits(np.where(hits.rows >= 0, gallery.ids[hits.rows], -1), hits.scores)


def _put(path: Path, rows: Ids, column: npt.NDArray[Any]) -> None:
    """Write rows of a column at their places; what is consecutive goes in one piece. On disk on return."""
    width = column.itemsize * (column.shape[1] if column.ndim == 2 else 1)
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    path.touch()
    with path.open("r+b") as file:
        for piece in np.split(np.arange(len(rows)), breaks):
            if len(piece):
                file.seek(int(rows[piece[0]]) * width)
                file.write(column[piece].tobytes())
        file.flush()
        os.fsync(file.fileno())


def _column(path: Path, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    dtype = np.dtype(_COLUMNS[path.name])
    if shape[0] == 0:
        return np.empty(shape, dtype)
    try:
        return np.memmap(path, dtype, mode="r", shape=shape)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged or gone: {error}") from None
