"""A gallery store in Milvus: an embedded file (Milvus Lite) or a server, by one client.

A collection is one version and one space, as its name NAME_v2_SPACEID says; the alias NAME is what
applications search, and moving it is the cut-over. Vectors are compared by inner product in an exact (FLAT)
index with strong consistency.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from hetero.upgrades.stores.store import Ids, StoreHits, check_batch, require_version, version_number
from hetero.upgrades.stores.top import best_of, dropped
from hetero_devices.errors import DataError, DiskFull, require
from hetero_devices.space import Embeddings, Space, check_same

MOST_HITS = 16_384
"""Milvus returns no more of one search."""

_BATCH = 2_000  # rows of a request: at 2048 dimensions 16 MB, below what a server takes
_TIMEOUT = 30.0  # seconds


class MilvusStore:
    """See the module. `name`: of the alias, and the beginning of the collections' names."""

    def __init__(self, address: str, name: str = "gallery", *, create: bool = True) -> None:
        """Connect. address: a file that ends in .db, or http(s)://HOST:PORT; DataError when none answers.

        create: whether a .db file may come into being.
        """
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,99}", name):
            raise DataError(f"{name!r} cannot name a gallery: use letters and digits, a letter first")
        milvus = require("pymilvus", "milvus")
        if address.endswith(".db"):
            require("milvus_lite", "milvus")
            _check_file(Path(address), create)
        _quiet()
        self._milvus, self.address, self.name = milvus, address, name
        with _explained(address):
            self._client: Any = milvus.MilvusClient(uri=address, timeout=_TIMEOUT)

    def versions(self) -> Mapping[str, Space]:
        found = {}
        for collection in self._collections():
            version, space = collection.removeprefix(f"{self.name}_").split("_")
            found[version] = Space(space, self._dim(collection))
        return dict(sorted(found.items(), key=lambda pair: version_number(pair[0])))

    def live(self) -> str | None:
        with _explained(self.address):
            for collection in self._collections():
                if self.name in self._client.list_aliases(collection)["aliases"]:
                    return str(collection.removeprefix(f"{self.name}_").split("_")[0])
        return None

    def create(self, version: str, space: Space) -> None:
        version_number(version)
        if version in self.versions():
            raise DataError(f"{self.address} has a version {version} of {self.name!r} already")
        kind = self._milvus.DataType
        schema = self._milvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kind.INT64, is_primary=True)
        schema.add_field("label", kind.INT64)
        schema.add_field("vector", kind.FLOAT_VECTOR, dim=space.dim)
        with _explained(self.address):
            index = self._client.prepare_index_params()
            index.add_index("vector", index_type="FLAT", metric_type="IP")
            name = f"{self.name}_{version}_{space.id}"
            self._client.create_collection(
                name, schema=schema, index_params=index, consistency_level="Strong"
            )

    def write(self, version: str, batch: Embeddings) -> None:
        collection, space = self._open(version)
        check_batch(space, batch, version)
        with _explained(self.address):
            for start in range(0, len(batch), _BATCH):
                self._client.upsert(collection, _rows(batch.select(np.arange(len(batch))[start:][:_BATCH])))

    def ids(self, version: str) -> Ids:
        collection, _ = self._open(version)
        found: list[int] = []
        with _explained(self.address):
            pages = self._client.query_iterator(collection, batch_size=_BATCH * 4, output_fields=["id"])
            while page := pages.next():
                found += [row["id"] for row in page]
            pages.close()
        return np.array(found, np.int64)

    def read(self, version: str, ids: Ids) -> Embeddings:
        collection, space = self._open(version)
        rows: dict[int, dict[str, Any]] = {}
        with _explained(self.address):
            for start in range(0, len(ids), _BATCH):
                wanted = ids[start : start + _BATCH].tolist()
                for row in self._client.get(collection, ids=wanted, output_fields=["label", "vector"]):
                    rows[row["id"]] = row
        if missing := [number for number in ids.tolist() if number not in rows]:
            raise DataError(f"version {version} of {self.address} lacks the row {missing[0]}")
        vectors = np.array([rows[i]["vector"] for i in ids.tolist()], np.float32).reshape(-1, space.dim)
        return Embeddings(vectors, ids, np.array([rows[i]["label"] for i in ids.tolist()], np.int64), space)

    def search(self, version: str, query: Embeddings, k: int, without: Ids | None = None) -> StoreHits:
        collection, space = self._open(version)
        check_same(query.space, space, "the query", f"version {version} of the gallery")
        out = np.empty(0, np.int64) if without is None else without
        total, among = self._count(collection), ""
        if len(out):
            remaining = np.setdiff1d(self.ids(version), out)
            if len(remaining) <= MOST_HITS:
                among, total, out = f"id in {remaining.tolist()}", len(remaining), np.empty(0, np.int64)
        limit = min(k + 1, total)
        while True:
            hits = dropped(self._found(collection, query, limit, among), out, query.ids)
            if limit >= total or (hits.ids[:, :k] >= 0).sum(axis=1).min(initial=k) >= k:
                return best_of([hits], k)
            if limit >= MOST_HITS:
                raise DataError(f"Milvus returns {MOST_HITS} hits at most: ask for fewer than {k}")
            limit = min(4 * limit, total, MOST_HITS)

    def point(self, version: str) -> None:
        collection, live = self._open(version)[0], self.live()
        with _explained(self.address):
            self._client.flush(collection)
            if live is None:
                self._client.create_alias(collection, self.name)
            else:
                self._client.alter_alias(collection, self.name)

    def drop(self, version: str) -> None:
        collection, _ = self._open(version)
        if self.live() == version:
            raise DataError(f"version {version} of {self.address} is live: it cannot be dropped")
        with _explained(self.address):
            self._client.drop_collection(collection)

    def close(self) -> None:
        """Disconnect; an embedded file may then be opened by another process."""
        with suppress(self._milvus.MilvusException):
            self._client.close()
        if self.address.endswith(".db"):
            manager = require("milvus_lite.server_manager", "milvus")
            manager.server_manager_instance.release_server(self.address)

    def _collections(self) -> list[str]:
        wanted = re.compile(rf"{self.name}_v[1-9][0-9]*_[0-9a-f]{{16}}")
        with _explained(self.address):
            return [name for name in self._client.list_collections() if wanted.fullmatch(name)]

    def _open(self, version: str) -> tuple[str, Space]:
        space = require_version(self.versions(), version, self.address)
        collection = f"{self.name}_{version}_{space.id}"
        with _explained(self.address):
            self._client.load_collection(collection)
        return collection, space

    def _dim(self, collection: str) -> int:
        with _explained(self.address):
            fields = self._client.describe_collection(collection)["fields"]
        return int(next(field["params"]["dim"] for field in fields if field["name"] == "vector"))

    def _count(self, collection: str) -> int:
        with _explained(self.address):
            return int(self._client.query(collection, output_fields=["count(*)"])[0]["count(*)"])

    def _found(self, collection: str, query: Embeddings, limit: int, among: str) -> StoreHits:
        ids = np.full((len(query), limit), -1, np.int64)
        scores = np.full((len(query), limit), -np.inf, np.float32)
        with _explained(self.address):
            found = (
                self._client.search(
                    collection,
                    np.array(query.vectors),
                    filter=among,
                    limit=limit,
                    output_fields=["id"],
                    search_params={"metric_type": "IP"},
                )
                if limit and len(query)
                else []
            )
        for i, hits in enumerate(found):
            ids[i, : len(hits)] = [hit["id"] for hit in hits]
            scores[i, : len(hits)] = [hit["distance"] for hit in hits]
        return StoreHits(ids, scores)


def _rows(batch: Embeddings) -> list[dict[str, Any]]:
    columns = zip(batch.ids.tolist(), batch.labels.tolist(), np.array(batch.vectors), strict=True)
    return [{"id": number, "label": label, "vector": vector} for number, label, vector in columns]


def _check_file(path: Path, create: bool) -> None:
    """A missing file, or one that another process has open, is said in one line."""
    if not path.exists():
        if not create:
            raise DataError(f"the gallery store {path} is gone")
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    if not (path / "LOCK").is_file():
        raise DataError(f"{path} is no Milvus Lite database")
    handle = os.open(path / "LOCK", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if not _ours(path):
            raise DataError(f"another process is using {path}: wait for it, or use a server") from None
    finally:
        os.close(handle)


def _ours(path: Path) -> bool:
    """Whether this process itself serves the file."""
    manager = require("milvus_lite.server_manager", "milvus")
    return os.path.abspath(path) in manager.server_manager_instance._servers


def _quiet() -> None:
    """Their loggers print a traceback for each error that is raised as well."""
    for name in ("pymilvus", "milvus_lite", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Milvus's errors in one line of ours."""
    from grpc import RpcError
    from pymilvus import MilvusException

    try:
        yield
    except (MilvusException, RpcError) as error:
        message = " ".join(str(getattr(error, "message", "") or error).split())[:200]
        if "No space left" in message:
            raise DiskFull(f"no space left to write {address}: free some and run it again") from None
        raise DataError(f"Milvus at {address}: {message}") from None
