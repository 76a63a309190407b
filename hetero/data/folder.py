"""A folder on disk with one sub-folder a class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hetero.data.layout import is_hidden, is_image, places
from hetero.data.source import Record, group_of, read_bytes
from hetero_devices.errors import DataError


class FolderSource:
    """CLASS/image files; deeper classes are joined with '/': ALPHABET/character01 (see `layout.places`)."""

    def __init__(self, path: Path, group_pattern: str | None = None) -> None:
        self.path = path
        self.group_pattern = group_pattern

    def digest(self) -> str:
        """Over names, sizes and modification times: to read every file would cost as much as decoding."""
        listing = hashlib.sha256(str(self.path.resolve()).encode())
        for name in self._listing()[0]:
            stat = (self.path / name).stat()
            listing.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return f"folder {listing.hexdigest()} {self.group_pattern}"

    def names(self) -> list[str]:
        """The images, relative to the folder and sorted; whatever folders they lie in."""
        return self._listing()[0]

    def records(self) -> Sequence[Record]:
        """One record an image, by name. DataError for an empty folder, an empty class, or a loop of links."""
        names, folders = self._listing()
        return [
            Record(
                name,
                place.class_name,
                partial(read_bytes, self.path / name),
                place.split,
                group_of(name, self.group_pattern),
            )
            for name, place in zip(names, places(names, folders, str(self.path)), strict=True)
        ]

    def _listing(self) -> tuple[list[str], list[str]]:
        """(image names, innermost and other folders), relative and sorted."""
        names: list[str] = []
        folders: list[str] = []
        for folder, files in _walk(self.path):
            inside = folder.relative_to(self.path)
            if inside.parts:
                folders.append(inside.as_posix())
            names.extend((inside / file).as_posix() for file in files if is_image(file))
        return sorted(names), sorted(folders)


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """(folder, file names) below `root`; links to folders are followed, loops of them refused."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}")

    for name, subfolders, files in os.walk(root, followlinks=True, onerror=refuse):
        folder = Path(name)
        subfolders[:] = sorted(entry for entry in subfolders if not is_hidden(entry))
        for entry in subfolders:
            if folder.resolve().is_relative_to((folder / entry).resolve()):
                raise DataError(f"{folder / entry} is a link to a folder that contains it: remove the link")
        yield folder, files
