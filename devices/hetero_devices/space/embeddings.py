"""Vectors together with what they mean: ids, labels and the space."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError, HeteroError
from hetero_devices.files import atomic_directory, read_json, refuse_others
from hetero_devices.space.space import Space

CODEC = "codec.json"
"""Marks a folder whose vectors are compressed, see `hetero.retrieval.codecs`."""

_NORM_TOLERANCE = 1e-3  # an int8 model with a float tail is off by ~1e-6; a missing normalisation by far more


@dataclass(frozen=True)
class Embeddings:
    """vectors: float32 [N, D], unit norm; ids: int64 [N], unique per image; labels: int64 [N]; space."""

    vectors: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    space: Space

    def __post_init__(self) -> None:
        count, dim = self.vectors.shape if self.vectors.ndim == 2 else (-1, -1)
        if self.vectors.dtype != np.float32 or dim != self.space.dim:
            found = f"{self.vectors.dtype} {list(self.vectors.shape)}"
            raise DataError(f"vectors are {found}, expected float32 [N, {self.space.dim}]")
        for name, column in (("ids", self.ids), ("labels", self.labels)):
            if column.dtype != np.int64 or column.shape != (count,):
                raise DataError(f"{name} are {column.dtype} {list(column.shape)}, expected int64 [{count}]")

    def __len__(self) -> int:
        return len(self.vectors)

    def check(self, block: int = 65_536) -> None:
        """Raise DataError unless every vector is finite and of unit length (reads all of them, in blocks)."""
        for start in range(0, len(self), block):
            norms = np.linalg.norm(self.vectors[start : start + block], axis=1)
            if not np.isfinite(norms).all():
                row = start + int(np.argmin(np.isfinite(norms)))
                raise DataError(f"vectors hold NaN or infinity (first at row {row}): embed the images again")
            wrong = np.abs(norms - 1) > _NORM_TOLERANCE
            if wrong.any():
                row = start + int(np.argmax(wrong))
                length = norms[row - start]
                raise DataError(f"vector {row} has length {length:.4f}, expected 1: normalise the embeddings")

    def select(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Embeddings:
        """The given rows, in that order."""
        return Embeddings(self.vectors[rows], self.ids[rows], self.labels[rows], self.space)

    def save(self, path: Path) -> None:
        """Write a folder of `vectors.npy`, `ids.npy`, `labels.npy` and `space.json`; whole or not at all.

        DataError when `path` is there and is anything else: see `check_target`.
        """
        check_target(path)
        with atomic_directory(path) as folder:
            for name in ("vectors", "ids", "labels"):
                np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
            (folder / "space.json").write_text(json.dumps(self.space.to_json()))

    @classmethod
    def load(cls, path: Path, mmap: bool = True) -> Embeddings:
        """Open a folder written by `save`; vectors stay on disk when `mmap`."""
        if not path.is_dir():
            raise DataError(f"no embeddings at {path}: expected a folder written by 'hetero embed'")
        if (path / CODEC).is_file():
            raise DataError(
                f"{path} holds a compressed gallery: only the gallery side of a search may be one"
            )
        if not (path / "space.json").is_file():
            inner = sorted(each.parent.name for each in path.glob("*/space.json"))
            hint = f", perhaps {path / inner[0]}" if inner else ""
            raise DataError(f"no embeddings in {path}: name a folder written by 'hetero embed'{hint}")
        space = Space.from_json(read_json(path / "space.json"))
        vectors = load_array(path / "vectors.npy", mmap)
        try:
            return cls(vectors, load_array(path / "ids.npy"), load_array(path / "labels.npy"), space)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None


def check_target(path: Path) -> None:
    """Raise DataError unless embeddings may be written to `path`: it is nothing, empty, or embeddings."""
    refuse_others(path, "space.json", "a folder of embeddings")


def load_array(path: Path, mmap: bool = False) -> npt.NDArray[Any]:
    """Any array of a .npy file, not to be trusted: the caller checks dtype and shape. HeteroError."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise HeteroError(f"cannot read {path}: {error}") from None
    return array
