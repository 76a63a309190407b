"""From an address to a store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from hetero.upgrades.stores.files import FileStore
from hetero.upgrades.stores.milvus import MilvusStore
from hetero.upgrades.stores.store import GalleryStore
from hetero_devices.errors import DataError


def open_store(address: str, name: str = "gallery", *, create: bool = False) -> GalleryStore:
    """A folder (plain files), a file that ends in .db (Milvus Lite), or http(s)://HOST:PORT (Milvus).

    name: of the gallery, in Milvus. create: make it where nothing is. DataError when it is gone, or is
    something else; MissingExtra where pymilvus is not installed.
    """
    if _is_server(address):
        return MilvusStore(address, name, create=create)
    if "://" in address:
        raise DataError(f"{address} is no gallery store: give a folder, FILE.db, or http(s)://HOST:PORT")
    path = Path(address).expanduser().resolve()  # a migration goes on from any working directory
    if path.suffix == ".db":
        return MilvusStore(str(path), name, create=create)
    if not create and not (path / "store.json").is_file():
        raise DataError(f"there is no gallery store at {path}: make one with 'hetero upgrade store'")
    return FileStore(path)


def _is_server(address: str) -> bool:
    """Whether it is http(s)://HOST:PORT."""
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number
        return False
