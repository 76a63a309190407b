"""Images without classes: what a label-free training may use."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hetero.data.folder import FolderSource
from hetero.data.images import decode
from hetero.data.imageset import ImageSet
from hetero.data.source import read_bytes
from hetero.progress import track
from hetero_devices.errors import DataError


def unlabelled(folder: Path, size: int) -> ImageSet:
    """All images in `folder` at any depth, sorted by name, as one class: uint8 [N, size, size, 3].

    Raises DataError when there are none, or one that cannot be decoded.
    """
    if not folder.is_dir():
        raise DataError(f"no folder of unlabelled images at {folder}")
    names = FolderSource(folder).names()
    if not names:
        raise DataError(f"no images in {folder}")
    images = np.stack([_read(folder / name, size) for name in track(names, "Decoding")])
    zeros, ids = np.zeros(len(names), np.int64), np.arange(len(names), dtype=np.int64)
    return ImageSet(images, zeros, ids, zeros, ("unlabelled",))


def _read(path: Path, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        return decode(read_bytes(path), size)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
