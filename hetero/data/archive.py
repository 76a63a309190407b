"""Zip and tar archives of image folders, read in place: nothing is unpacked, no path leaves the archive."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from threading import Lock

from hetero.data.digests import file_digest
from hetero.data.layout import is_image, places
from hetero.data.source import Record, group_of, one_line
from hetero_devices.errors import DataError

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, OSError, RuntimeError)
_LARGEST_ENTRY = 256 * 1024 * 1024  # bytes of one encoded image; more is a zip bomb


class ArchiveSource:
    """A .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz of class folders (see `layout.places`)."""

    def __init__(self, path: Path, group_pattern: str | None = None) -> None:
        self.path = path
        self.group_pattern = group_pattern

    def digest(self) -> str:
        return f"archive {file_digest(self.path)} {self.group_pattern}"

    def records(self) -> Sequence[Record]:
        """One record an image, in archive order. DataError for a damaged archive or an unsafe entry."""
        readers, folders = _open_zip(self.path) if _is_zip(self.path) else _open_tar(self.path)
        names = list(readers)
        stands = places(names, folders, str(self.path))
        return [
            Record(name, place.class_name, readers[name], place.split, group_of(name, self.group_pattern))
            for name, place in zip(names, stands, strict=True)
        ]


Readers = dict[str, Callable[[], bytes]]


def _open_zip(path: Path) -> tuple[Readers, list[str]]:
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise DataError(f"cannot read archive {path}: {one_line(error)}") from None
    readers: Readers = {}
    folders = []
    for entry in archive.infolist():
        name = _check_name(path, entry.filename)
        if (entry.external_attr >> 16) & 0o170000 == 0o120000:
            raise DataError(f"archive {path} is unsafe: entry {entry.filename!r} is a link")
        if entry.is_dir():
            folders.append(name)
        elif is_image(name):
            _check_size(path, name, entry.file_size)
            readers[name] = partial(_read, path, name, partial(archive.read, entry))
    return readers, folders


def _open_tar(path: Path) -> tuple[Readers, list[str]]:
    try:
        archive = _TarFile.open(path)
        members = archive.getmembers()
    except _DAMAGE as error:
        raise DataError(f"cannot read archive {path}: {one_line(error)}") from None
    lock = Lock()  # a tar has one file position
    readers: Readers = {}
    folders = []
    for member in members:
        name = _check_name(path, member.name)
        if not (member.isfile() or member.isdir()):
            raise DataError(f"archive {path} is unsafe: entry {member.name!r} is a link or a device")
        if member.isdir():
            folders.append(name)
        elif is_image(name):
            _check_size(path, name, member.size)
            readers[name] = partial(_read, path, name, partial(_tar_bytes, archive, member, lock))
    return readers, folders


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)


class _TarFile(tarfile.TarFile):
    """Stays open for the readers and closes with the last of them, as a ZipFile does."""

    def __del__(self) -> None:
        self.close()


def _tar_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo, lock: Lock) -> bytes:
    with lock:
        file = archive.extractfile(member)
        assert file is not None, "only regular files have readers"
        return file.read()


def _read(path: Path, name: str, read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except (*_DAMAGE, NotImplementedError) as error:
        raise DataError(f"archive {path}, entry {name}: {one_line(error)}") from None


def _check_name(path: Path, name: str) -> str:
    """The entry's name without a leading './'; DataError when it points outside the archive."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or (parts and parts[0].endswith(":")) or "\0" in name:
        raise DataError(f"archive {path} is unsafe: entry {name!r} points outside it")
    return "/".join(parts)


def _check_size(path: Path, name: str, size: int) -> None:
    if size > _LARGEST_ENTRY:
        raise DataError(f"archive {path}, entry {name}: {size} bytes is too much for one image")
