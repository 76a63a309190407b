"""Images decoded once into a memory-mapped cache, keyed by their content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from hetero.data.cachedir import cache_dir, explain_full_disk
from hetero.data.images import DECODER_VERSION, decode
from hetero.data.imageset import Images, ImageSet, class_columns
from hetero.data.source import Record, Source
from hetero.progress import track
from hetero_devices.errors import DataError, require
from hetero_devices.files import atomic_directory, read_json

_FORMAT = 1  # of a cache entry on disk
_CHUNK = 256  # images decoded at a time: what the cache holds in memory
_ABANDONED = 24 * 3600  # seconds after which the remains of a killed run are swept
_COLUMNS = ("labels", "groups", "splits", "is_query", "is_gallery")

Rows = Iterable[tuple[int, Images]]


@dataclass(frozen=True)
class Decoded:
    """A decoded source: its images; splits: str [N] of "train", "validation" and "test", or None."""

    images: ImageSet
    splits: npt.NDArray[np.str_] | None


def decoded(source: Source, size: int) -> Decoded:
    """All images of `source` as uint8 [N, size, size, 3] on disk, decoded now or earlier.

    Rows are ordered by (split, class, key), so that splits and runs of classes stay views of the file
    and ids do not depend on how the images were packed. Raises DataError naming the source and the image
    that cannot be decoded, or when the cache has no room; nothing is left behind then.
    """
    if size < 1:
        raise DataError(f"size is {size}, expected at least 1 pixel")
    version = require("PIL", "train").__version__
    key = ["source", source.digest(), size, DECODER_VERSION, version]
    return cached(key, lambda: _plan(source, size))


def cached(key: Sequence[object], plan: Callable[[], tuple[ImagePlan, Rows]]) -> Decoded:
    """The cache entry for `key` (plain JSON values), written first by `plan` if it is not there."""
    name = hashlib.sha256(json.dumps([_FORMAT, *key]).encode()).hexdigest()[:32]
    folder = cache_dir() / "images" / name
    if not folder.is_dir():
        columns, rows = plan()
        with explain_full_disk(columns.nbytes), suppress(_MadeMeanwhile):
            _sweep(folder.parent)
            with atomic_directory(folder) as temporary:
                columns.write(temporary, rows)
                if folder.is_dir():
                    raise _MadeMeanwhile
    return _open(folder)


class _MadeMeanwhile(Exception):
    """Another process was quicker; its entry stays, since somebody may be opening it."""


@dataclass(frozen=True)
class ImagePlan:
    """The columns of a cache entry: everything but the pixels, one value a row."""

    size: int
    class_of: Sequence[str]
    groups: npt.NDArray[np.int64]
    splits: npt.NDArray[np.str_] | None = None
    is_query: npt.NDArray[np.bool_] | None = None
    is_gallery: npt.NDArray[np.bool_] | None = None

    @property
    def nbytes(self) -> int:
        return len(self.class_of) * (self.size * self.size * 3 + 18)

    def write(self, folder: Path, rows: Rows) -> None:
        """Write all files of the entry; `rows` yields (row, uint8 [size, size, 3]) in any order."""
        labels, class_names = class_columns(self.class_of)
        columns = {"labels": labels} | {name: getattr(self, name) for name in _COLUMNS[1:]}
        for name, column in columns.items():
            if column is not None:
                np.save(folder / f"{name}.npy", column, allow_pickle=False)
        (folder / "classes.json").write_text(json.dumps(class_names))
        with (folder / "images.npy").open("wb") as file:
            _write_images(file, (len(labels), self.size, self.size, 3), rows)


def _write_images(file: BinaryIO, shape: tuple[int, ...], rows: Rows) -> None:
    """Write an npy file by plain writes: a full disk is an OSError here, through a memory map a SIGBUS."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)
    file.flush()
    start, stride = file.tell(), int(np.prod(shape[1:]))
    _reserve(file.fileno(), start + shape[0] * stride)
    for row, image in rows:
        file.seek(start + row * stride)
        file.write(np.ascontiguousarray(image).data)


def _reserve(handle: int, size: int) -> None:
    """Ask for the whole file at once, so that a full disk shows before the decoding, not after."""
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # this file system cannot reserve
            raise


def _plan(source: Source, size: int) -> tuple[ImagePlan, Rows]:
    records = source.records()
    order = sorted(range(len(records)), key=lambda index: _place(records[index]))
    rank = {index: row for row, index in enumerate(order)}
    ranked = [records[index] for index in order]
    plan = ImagePlan(
        size,
        [record.class_name for record in ranked],
        np.array([record.group for record in ranked], dtype=np.int64),
        _splits(source, ranked),
        _flags([record.is_query for record in ranked]),
        _flags([record.is_gallery for record in ranked]),
    )
    pixels = track(_decode_all(source, records, size), f"decoding {source.path.name}", len(records))
    return plan, ((rank[index], image) for index, image in enumerate(pixels))


def _place(record: Record) -> tuple[str, str, str]:
    return record.split or "", record.class_name, record.key


def _splits(source: Source, records: Sequence[Record]) -> npt.NDArray[np.str_] | None:
    named = [record.split for record in records if record.split is not None]
    if named and len(named) < len(records):
        lost = next(record.key for record in records if record.split is None)
        raise DataError(f"{source.path}: {lost} has no split, others have")
    return np.array(named) if named else None


def _flags(values: Sequence[bool | None]) -> npt.NDArray[np.bool_] | None:
    if all(value is None for value in values):
        return None
    return np.array([bool(value) for value in values], dtype=np.bool_)


def _decode_all(source: Source, records: Sequence[Record], size: int) -> Iterator[Images]:
    """Pixels in record order. Files are read here and decoded by threads: Pillow releases the interpreter."""

    def pixels(entry: tuple[Record, bytes]) -> Images:
        try:
            return decode(entry[1], size)
        except DataError as error:
            raise DataError(f"{source.path}, entry {entry[0].key}: {error}") from None

    remaining = iter(records)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while chunk := list(islice(remaining, _CHUNK)):
            yield from pool.map(pixels, [(record, record.read()) for record in chunk])


def _open(folder: Path) -> Decoded:
    try:
        columns = {name: np.load(path) for name in _COLUMNS if (path := folder / f"{name}.npy").exists()}
        pixels = np.load(folder / "images.npy", mmap_mode="r")
        names = tuple(read_json(folder / "classes.json"))
    except (OSError, ValueError, EOFError):  # HeteroError is a ValueError
        raise DataError(f"the cache entry {folder} is damaged: remove it and run again") from None
    splits = columns.pop("splits", None)
    ids = np.arange(len(pixels), dtype=np.int64)
    return Decoded(ImageSet(pixels, ids=ids, class_names=names, **columns), splits)


def _sweep(folder: Path) -> None:
    """Remove what killed runs left: temporary entries that nobody has written to for a day."""
    for remains in folder.glob(".*"):
        with suppress(FileNotFoundError):
            if time.time() - remains.stat().st_mtime > _ABANDONED:
                shutil.rmtree(remains, ignore_errors=True)
