"""The identity of a coordinate system. Everything that carries vectors carries a Space."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hetero_devices.errors import HeteroError, SpaceMismatch
from hetero_devices.space.preprocessing import Preprocessing


@dataclass(frozen=True)
class Space:
    """An embedding space: `id` (16 hex digits), `dim`, and the metric by which vectors are compared.

    `cosine` means: vectors are unit-norm float32 and similarity is their inner product.
    """

    id: str
    dim: int
    metric: Literal["cosine"] = "cosine"

    def __str__(self) -> str:
        return f"{self.id} ({self.dim}-d {self.metric})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> Space:
        if not isinstance(fields, dict) or not {"id", "dim"} <= set(fields) <= {"id", "dim", "metric"}:
            raise HeteroError(f"space is not understood: {fields!r}")
        space = cls(**fields)
        if not isinstance(space.id, str) or not isinstance(space.dim, int) or space.metric != "cosine":
            raise HeteroError(f"space is not understood: {fields!r}")
        return space


def space_id(content: bytes, preprocessing: Preprocessing | None, dim: int) -> str:
    """The id of the space an anchor defines.

    content: digest of the anchor's weights, or of its stored vectors when it is a black box.
    preprocessing: of the anchor; None for a black box. Unit normalisation is part of the definition.
    """
    fields = {
        "preprocessing": preprocessing.to_json() if preprocessing else None,
        "dim": dim,
        "normalised": True,
    }
    return hashlib.sha256(content + json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def check_same(
    query: Space, gallery: Space, query_name: str = "query", gallery_name: str = "gallery"
) -> None:
    """Raise SpaceMismatch, naming both sides, unless both are one space."""
    if query != gallery:
        raise SpaceMismatch(
            f"{query_name} is in space {query}, {gallery_name} is in space {gallery}: "
            "their vectors cannot be compared; embed both with models of one anchor"
        )
