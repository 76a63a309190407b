"""Prefixes of a space: its first dimensions, normalised anew, are a space of their own."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError
from hetero_devices.space.embeddings import Embeddings
from hetero_devices.space.space import Space


def prefix_space(space: Space, dim: int) -> Space:
    """The space of the first `dim` dimensions; its derived id makes mixing it with the whole an error.

    The whole is its own prefix. Prefixes are cut from the whole: a prefix of a prefix has another id.
    Raises DataError unless 1 <= dim <= space.dim.
    """
    if not 1 <= dim <= space.dim:
        raise DataError(f"a prefix of {dim} dimensions cannot be cut from space {space}")
    if dim == space.dim:
        return space
    return Space(hashlib.sha256(f"prefix {dim} of {space.id}".encode()).hexdigest()[:16], dim)


def prefix_vectors(vectors: npt.NDArray[np.float32], dim: int) -> npt.NDArray[np.float32]:
    """The first dimensions, unit norm: float32 [N, D] -> float32 [N, dim]. DataError where all are zero."""
    cut = vectors[:, :dim]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    if (norms < 1e-6).any():
        raise DataError(
            f"vector {int(norms.argmin())} is zero in its first {dim} dimensions: use a longer prefix"
        )
    unit: npt.NDArray[np.float32] = (cut / norms).astype(np.float32)
    return unit


def prefix(embeddings: Embeddings, dim: int) -> Embeddings:
    """A gallery for queries of a prefix: every vector cut to `dim` dimensions, in the prefix' space."""
    space = prefix_space(embeddings.space, dim)
    if space == embeddings.space:
        return embeddings
    return Embeddings(prefix_vectors(embeddings.vectors, dim), embeddings.ids, embeddings.labels, space)
