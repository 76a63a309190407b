"""Images that are arrays already: an .npz, or a folder with images.npy and labels.npy."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hetero.data.digests import file_digest
from hetero.data.imageset import Images
from hetero.data.source import Record, one_line
from hetero_devices.errors import DataError

Array = npt.NDArray[np.generic]


class ArraySource:
    """images: uint8 [N, H, W, 3 or 1]; labels: integers or strings [N]; groups (optional): integers [N].

    `path` is an .npz with these names, an images.npy beside its labels.npy, or the folder of both.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.parent if path.suffix == ".npy" else path

    def digest(self) -> str:
        if self.path.is_file():
            return f"arrays {file_digest(self.path)}"
        files = [self.path / f"{name}.npy" for name in ("images", "labels", "groups")]
        return f"arrays {' '.join(file_digest(file) for file in files if file.exists())}"

    def records(self) -> Sequence[Record]:
        """One record a row. DataError for a missing array or one of the wrong type, shape or length."""
        images = _checked_images(self.path, self._load("images"))
        labels = _checked_column(self.path, "labels", self._load("labels"), "iuU", len(images))
        groups = np.zeros(len(images), dtype=np.int64)
        if self._has("groups"):
            groups = _checked_column(self.path, "groups", self._load("groups"), "iu", len(images)).astype(
                np.int64
            )
        width = len(str(len(images)))
        return [
            Record(f"{row:0{width}d}", name, partial(_netpbm, images[row]), group=int(groups[row]))
            for row, name in enumerate(_class_names(self.path, labels))
        ]

    def _has(self, name: str) -> bool:
        if self.path.is_dir():
            return (self.path / f"{name}.npy").exists()
        with zipfile.ZipFile(self.path) as archive:
            return f"{name}.npy" in archive.namelist()

    def _load(self, name: str) -> Array:
        file = self.path / f"{name}.npy" if self.path.is_dir() else self.path
        try:
            if self.path.is_dir():
                array: Array = np.load(file, mmap_mode="r", allow_pickle=False)
                return array
            with np.load(file, allow_pickle=False) as archive:
                array = archive[name]
                return array
        except KeyError:
            raise DataError(f"{file} has no array {name!r}: expected images and labels") from None
        except (
            OSError,
            ValueError,
            EOFError,
            TypeError,
            AttributeError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise DataError(f"cannot read {name} from {file}: {one_line(error)}") from None


def _checked_images(path: Path, images: Array) -> Images:
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"{path}: images have shape {list(images.shape)}, expected [N, H, W, 3] or [N, H, W, 1]"
        )
    if np.issubdtype(images.dtype, np.floating) and not np.isfinite(images).all():
        raise DataError(f"{path}: images are {images.dtype} with NaN or infinity, expected uint8")
    if images.dtype != np.uint8:
        raise DataError(
            f"{path}: images are {images.dtype}, expected uint8 from 0 to 255: convert them first"
        )
    return images.view(np.uint8)


def _checked_column(path: Path, name: str, column: Array, kinds: str, count: int) -> Array:
    if column.dtype.kind not in kinds or column.shape != (count,):
        meant = "integers or strings" if "U" in kinds else "integers"
        raise DataError(f"{path}: {name} are {column.dtype} {list(column.shape)}, expected {meant} [{count}]")
    return column


def _class_names(path: Path, labels: Array) -> list[str]:
    """Class names; whole numbers are padded with zeros, so that name order is their order."""
    if labels.dtype.kind == "U":
        names = [str(label) for label in labels]
    else:
        width = max(len(str(label)) for label in labels.tolist())
        names = [f"{label:0{width}d}" for label in labels.tolist()]
    if "" in names:
        raise DataError(f"{path}: the label of row {names.index('')} is empty")
    return names


def _netpbm(image: Images) -> bytes:
    """One image as an uncompressed PPM or PGM file: every source hands out encoded bytes."""
    height, width, channels = image.shape
    return f"P{6 if channels == 3 else 5} {width} {height} 255\n".encode() + image.tobytes()
