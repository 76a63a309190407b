"""Codecs that learn nothing: every component of a vector becomes fewer bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[Any]

_SMALLEST = np.float32(1e-12)


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    """Rows scaled to unit length: [N, D] of any real type -> float32 [N, D]; a row of zeros stays one."""
    floats = vectors.astype(np.float32)
    floats /= np.maximum(np.linalg.norm(floats, axis=1, keepdims=True), _SMALLEST)
    return floats


@dataclass(frozen=True)
class Float16:
    """Half precision: relative error at most 2^-11 in a component."""

    dim: int
    name: str = "float16"
    code_dtype: type[Any] = np.float16

    @property
    def code_length(self) -> int:
        return self.dim

    def encode(self, vectors: Vectors) -> Codes:
        return vectors.astype(np.float16)

    def decode(self, codes: Codes) -> Vectors:
        return unit(codes)

    def tables(self) -> Mapping[str, Vectors]:
        return {}


@dataclass(frozen=True)
class Int8:
    """Signed bytes, each vector scaled so that its largest component becomes 127.

    The scale is not stored: decoding normalises. Error at most max|x| / 254 in a component, before that.
    A scale per vector and not per dimension: it needs no training vectors and was as good
    (benchmarks/galleries.py measures both).
    """

    dim: int
    name: str = "int8"
    code_dtype: type[Any] = np.int8

    @property
    def code_length(self) -> int:
        return self.dim

    def encode(self, vectors: Vectors) -> Codes:
        largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), _SMALLEST)
        codes: Codes = np.rint(vectors * (np.float32(127) / largest)).astype(np.int8)
        return codes

    def decode(self, codes: Codes) -> Vectors:
        return unit(codes)

    def tables(self) -> Mapping[str, Vectors]:
        return {}


@dataclass(frozen=True)
class Binary:
    """The sign of each component, one bit; 0 counts as positive. Decoded components are +-1/sqrt(D).

    With a float query the score is the asymmetric one of Gordo et al. (TPAMI 2014), not a Hamming distance.
    """

    dim: int
    name: str = "binary"
    code_dtype: type[Any] = np.uint8

    @property
    def code_length(self) -> int:
        return -(-self.dim // 8)

    def encode(self, vectors: Vectors) -> Codes:
        return np.packbits(vectors >= 0, axis=1)

    def decode(self, codes: Codes) -> Vectors:
        bits = np.unpackbits(codes, axis=1, count=self.dim)
        signs: Vectors = (bits.astype(np.float32) * 2 - 1) / np.float32(self.dim**0.5)
        return signs

    def tables(self) -> Mapping[str, Vectors]:
        return {}
