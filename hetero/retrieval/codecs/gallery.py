"""A compressed gallery: codes on disk or in memory, decoded a block at a time when they are compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from hetero.retrieval.codecs.codec import PLAIN, PRODUCT, Codec, check_name
from hetero.retrieval.codecs.product import CENTROIDS, Product
from hetero.retrieval.codecs.scalar import Codes, Vectors
from hetero_devices.errors import DataError
from hetero_devices.files import atomic_directory, read_json
from hetero_devices.space import Embeddings, Space
from hetero_devices.space.embeddings import CODEC, check_target, load_array

_BLOCK = 16_384


class DecodedVectors:
    """Codes that read like an array, float32 [N, D]: what is indexed is decoded, and nothing else is kept."""

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, codes: Codes, codec: Codec) -> None:
        self.codes, self.codec = codes, codec

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.codes), self.codec.dim

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, tuple):
            return self[rows[0]][:, *rows[1:]]
        if isinstance(rows, int | np.integer):
            return self[rows : rows + 1][0]
        return self.codec.decode(np.asarray(self.codes[rows]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True)
class Compressed:
    """codes: [N, code_length] of the codec's type; ids, labels: int64 [N]; space: of the decoded vectors."""

    codec: Codec
    codes: Codes
    ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    space: Space

    def __post_init__(self) -> None:
        expected = (len(self.ids), self.codec.code_length)
        if self.codes.dtype != self.codec.code_dtype or self.codes.shape != expected:
            found = f"{self.codes.dtype} {list(self.codes.shape)}"
            wanted = f"{np.dtype(self.codec.code_dtype)} {list(expected)}"
            raise DataError(f"codes are {found}, {self.codec.name} needs {wanted}")
        if self.codec.dim != self.space.dim:
            raise DataError(f"{self.codec.name} is of {self.codec.dim} dimensions, the space is {self.space}")

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def bytes_per_vector(self) -> int:
        """What one vector takes; tables that all vectors share, and ids and labels, are not counted."""
        return int(self.codec.code_length * np.dtype(self.codec.code_dtype).itemsize)

    def save(self, path: Path) -> None:
        """Write the folder of plain embeddings with `codes.npy`, `codec.json` and the codec's tables in place
        of `vectors.npy`; whole or not at all. DataError when `path` is there and is anything else."""
        check_target(path)
        with atomic_directory(path) as folder:
            arrays = {"codes": self.codes, "ids": self.ids, "labels": self.labels, **self.codec.tables()}
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
            (folder / "space.json").write_text(json.dumps(self.space.to_json()))
            (folder / CODEC).write_text(json.dumps({"schema": 1, "codec": self.codec.name}))

    @classmethod
    def load(cls, path: Path) -> Compressed:
        """Open a folder written by `save`; the codes stay on disk. DataError or HeteroError in one line."""
        if not (path / CODEC).is_file():
            raise DataError(f"no compressed gallery at {path}: expected a folder of 'hetero compress'")
        space = Space.from_json(read_json(path / "space.json"))
        stored = _stored_codec(path, read_json(path / CODEC), space.dim)
        codes = load_array(path / "codes.npy", mmap=True)
        return cls(stored, codes, load_array(path / "ids.npy"), load_array(path / "labels.npy"), space)


def compress(embeddings: Embeddings, by: Codec) -> Compressed:
    """Encode every vector, a block at a time."""
    codes = np.empty((len(embeddings), by.code_length), by.code_dtype)
    for start in range(0, len(embeddings), _BLOCK):
        codes[start : start + _BLOCK] = by.encode(np.array(embeddings.vectors[start : start + _BLOCK]))
    return Compressed(by, codes, embeddings.ids, embeddings.labels, embeddings.space)


def decoded(compressed: Compressed) -> Embeddings:
    """Embeddings whose vectors are decoded when they are read: a gallery for everything in `retrieval`."""
    vectors = cast(Vectors, DecodedVectors(compressed.codes, compressed.codec))
    return Embeddings(vectors, compressed.ids, compressed.labels, compressed.space)


def load_gallery(path: Path) -> Embeddings:
    """A folder of embeddings, plain or compressed; raises as `Embeddings.load` and `Compressed.load`."""
    return decoded(Compressed.load(path)) if (path / CODEC).is_file() else Embeddings.load(path)


def _stored_codec(path: Path, fields: Any, dim: int) -> Codec:
    name = fields.get("codec") if isinstance(fields, dict) and fields.get("schema") == 1 else None
    if not isinstance(name, str):
        raise DataError(f"{path / CODEC} is not understood: compress the gallery again")
    check_name(name, dim)
    return PLAIN[name](dim) if name in PLAIN else _stored_product(path, name, dim)


def _stored_product(path: Path, name: str, dim: int) -> Product:
    match = PRODUCT.fullmatch(name)
    assert match is not None  # check_name
    parts = int(match[2])
    codebooks = _table(path / "codebooks.npy", (parts, CENTROIDS, dim // parts))
    return Product(name, codebooks, _table(path / "rotation.npy", (dim, dim)) if match[1] else None)


def _table(path: Path, shape: tuple[int, ...]) -> Vectors:
    table: Vectors = load_array(path)
    if table.dtype != np.float32 or table.shape != shape or not np.isfinite(table).all():
        found = f"{table.dtype} {list(table.shape)}"
        raise DataError(f"{path} is {found}, expected finite float32 {list(shape)}: compress again")
    return table
