"""Product quantisation: a byte for each part of a vector, naming its nearest learnt centroid.

Jegou et al., Product Quantization for Nearest Neighbor Search (TPAMI 2011), asymmetric distance; with a
learnt rotation before it, Ge et al., Optimized Product Quantization (CVPR 2013). faiss learns the tables;
encoding and decoding need only numpy, so a gallery can be searched where faiss is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero.retrieval.codecs.scalar import Codes, Vectors, unit
from hetero_devices.errors import DataError, require

CENTROIDS = 256
_BLOCK = 4_096  # vectors whose distances to all centroids are held at once


@dataclass(frozen=True)
class Product:
    """codebooks: float32 [M, 256, D / M]. rotation: float32 [D, D], applied to vectors first, or None."""

    name: str
    codebooks: Vectors
    rotation: Vectors | None = None
    code_dtype: type[Any] = np.uint8

    @property
    def dim(self) -> int:
        return int(self.codebooks.shape[0] * self.codebooks.shape[2])

    @property
    def code_length(self) -> int:
        return int(self.codebooks.shape[0])

    def encode(self, vectors: Vectors) -> Codes:
        turned = vectors if self.rotation is None else vectors @ self.rotation.T
        codes = np.empty((len(vectors), self.code_length), np.uint8)
        for start in range(0, len(vectors), _BLOCK):
            parts = np.split(turned[start : start + _BLOCK], self.code_length, axis=1)
            for m, part in enumerate(parts):
                codes[start : start + _BLOCK, m] = _nearest(part, self.codebooks[m])
        return codes

    def decode(self, codes: Codes) -> Vectors:
        if self.rotation is None:
            parts = [table[column] for table, column in zip(self.codebooks, codes.T, strict=True)]
            return unit(np.concatenate(parts, axis=1))
        vectors = np.zeros((len(codes), self.dim), np.float32)
        for table, column in zip(self._turned_back, codes.T, strict=True):
            vectors += table[column]
        return unit(vectors)

    @cached_property
    def _turned_back(self) -> Vectors:
        """Every centroid turned back, float32 [M, 256, D]; a vector is the sum of those it names.

        A matrix product would do, but its last bits depend on how many rows it is given, and equal codes must
        give equal vectors, in whatever blocks they are decoded.
        """
        assert self.rotation is not None
        parts = np.split(self.rotation, self.code_length)  # [D / M, D] each
        return np.stack([table @ part for table, part in zip(self.codebooks, parts, strict=True)])

    def tables(self) -> Mapping[str, Vectors]:
        rotation = {} if self.rotation is None else {"rotation": self.rotation}
        return {"codebooks": self.codebooks} | rotation


def check_parts(name: str, parts: int, dim: int) -> None:
    """Raise DataError unless vectors of `dim` components split into `parts` equal parts."""
    if not 1 <= parts <= dim or dim % parts:
        raise DataError(f"{name} needs a number of bytes that divides the dimension {dim}, not {parts}")


def fit_product(name: str, parts: int, vectors: npt.NDArray[Any], *, rotate: bool, seed: int = 0) -> Product:
    """Learn the tables from gallery or training vectors, float32 [N, D]; the same vectors give the same.

    MissingExtra without faiss; DataError when `parts` does not divide D or N < 256.
    """
    faiss = require("faiss", "codecs")
    check_parts(name, parts, vectors.shape[1])
    if len(vectors) < CENTROIDS:
        raise DataError(
            f"{name} learns {CENTROIDS} centroids and was given {len(vectors)} vectors: fit it on more"
        )
    sample = np.ascontiguousarray(vectors, np.float32)
    rotation = _rotation(faiss, parts, sample) if rotate else None
    quantiser = faiss.ProductQuantizer(sample.shape[1], parts, 8)
    quantiser.cp.seed, quantiser.cp.min_points_per_centroid = seed + 1, 1  # faiss would warn on stderr
    quantiser.train(sample if rotation is None else np.ascontiguousarray(sample @ rotation.T))
    codebooks = faiss.vector_to_array(quantiser.centroids).reshape(parts, CENTROIDS, -1)
    return Product(name, codebooks.astype(np.float32), rotation)


def _rotation(faiss: Any, parts: int, sample: Vectors) -> Vectors:
    """float32 [D, D], orthogonal."""
    transform = faiss.OPQMatrix(sample.shape[1], parts)
    transform.pq = faiss.ProductQuantizer(sample.shape[1], parts, 8)
    transform.pq.cp.min_points_per_centroid = 1
    transform.train(sample)
    matrix: Vectors = faiss.vector_to_array(transform.A).reshape(sample.shape[1], -1).astype(np.float32)
    return matrix


def _nearest(part: Vectors, table: Vectors) -> npt.NDArray[np.uint8]:
    """The nearest of 256 rows of `table` for each row of `part`, in Euclidean distance; ties: the first."""
    halves = (table * table).sum(axis=1) / 2
    nearest: npt.NDArray[np.uint8] = np.argmin(halves - part @ table.T, axis=1).astype(np.uint8)
    return nearest
