"""Gallery stores: plain files or Milvus, versions side by side, cut over in one step."""

from hetero.upgrades.stores.files import FileStore
from hetero.upgrades.stores.milvus import MilvusStore
from hetero.upgrades.stores.opening import open_store
from hetero.upgrades.stores.store import GalleryStore, StoreHits, next_version
from hetero.upgrades.stores.top import best_of

__all__ = ["FileStore", "GalleryStore", "MilvusStore", "StoreHits", "best_of", "next_version", "open_store"]
