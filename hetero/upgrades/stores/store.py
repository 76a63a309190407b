"""What a gallery store is: versions side by side, each of one space, one of them live."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError
from hetero_devices.space import Embeddings, Space, check_same

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_VERSION = re.compile(r"v([1-9][0-9]{0,8})")


@dataclass(frozen=True)
class StoreHits:
    """ids: int64 [Q, k], best first, -1 where a query has fewer; scores: float32 [Q, k], -inf there."""

    ids: Ids
    scores: Floats


class GalleryStore(Protocol):
    """Vectors by id in versions v1, v2, ...; two spaces never share a version.

    Every method raises DataError in one line when the store is gone, damaged or refuses, DiskFull when no
    space is left. What a returned `write` has written survives the death of this process.
    """

    @property
    def address(self) -> str: ...

    def versions(self) -> Mapping[str, Space]:
        """The space of each version."""
        ...

    def live(self) -> str | None:
        """The version that queries are to be searched in; None before the first cut-over."""
        ...

    def create(self, version: str, space: Space) -> None:
        """An empty version."""
        ...

    def write(self, version: str, batch: Embeddings) -> None:
        """Put rows; an id that is there already is replaced, so the same batch twice is the same as once.

        SpaceMismatch when the batch is of another space, DataError for NaN.
        """
        ...

    def ids(self, version: str) -> Ids:
        """Every id that is there: int64 [N], in no order that can be relied on."""
        ...

    def read(self, version: str, ids: Ids) -> Embeddings:
        """The rows of these ids, in this order; DataError when one is missing."""
        ...

    def search(self, version: str, query: Embeddings, k: int, without: Ids | None = None) -> StoreHits:
        """The k rows of highest similarity, exactly; a query does not find its own id, nor any of `without`.

        SpaceMismatch when the queries are of another space.
        """
        ...

    def point(self, version: str) -> None:
        """Make a version live, at once and wholly."""
        ...

    def drop(self, version: str) -> None:
        """Delete a version; DataError when it is live."""
        ...

    def close(self) -> None: ...


def next_version(names: Mapping[str, Space]) -> str:
    """The version after the highest one."""
    return f"v{1 + max((version_number(name) for name in names), default=0)}"


def version_number(name: str) -> int:
    """3 of 'v3'; DataError for anything else."""
    found = _VERSION.fullmatch(name)
    if found is None:
        raise DataError(f"{name!r} is no version of a gallery: they are called v1, v2, ...")
    return int(found[1])


def check_batch(space: Space, batch: Embeddings, version: str) -> None:
    """Refuse what may not enter a version: another space, NaN, an id twice."""
    check_same(batch.space, space, "what is written", f"version {version} of the gallery")
    batch.check()
    if len(np.unique(batch.ids)) != len(batch):
        raise DataError("an id occurs twice in one batch: ids must be unique per image")


def require_version(versions: Mapping[str, Space], version: str, address: str) -> Space:
    """The space of a version that must exist."""
    if version not in versions:
        known = ", ".join(versions) or "none"
        raise DataError(f"{address} has no version {version!r} of the gallery (there are: {known})")
    return versions[version]
