"""The layout of image folders, on disk or in an archive: [WRAPPER/][SPLIT/]CLASS/image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from hetero.data.source import SPLITS
from hetero_devices.errors import DataError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclass(frozen=True)
class Place:
    """Where one image stands: its class ('/'-joined when nested) and its split, if the layout has splits."""

    class_name: str
    split: str | None


def is_image(name: str) -> bool:
    """Whether a name has an image's extension and is not hidden (nor a macOS resource fork)."""
    path = PurePosixPath(name)
    return path.suffix.lower() in EXTENSIONS and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether any part of the path is hidden or belongs to macOS' archive metadata."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def places(images: Sequence[str], folders: Iterable[str], where: str) -> list[Place]:
    """The place of every image. A class is a folder that directly holds images.

    images: '/'-separated paths relative to the source; folders: all its folders, to find empty classes.
    Folders that wrap everything are dropped; then top folders named train, val(idation), test are splits.
    Raises DataError naming `where` when there is no image, an image outside a class, or an empty class.
    """
    if not images:
        raise DataError(
            f"{where} holds no images in class folders (looked for {', '.join(sorted(EXTENSIONS))})"
        )
    parents = [PurePosixPath(name).parent.parts for name in images]
    if () in parents:
        raise DataError(f"{where}: {images[parents.index(())]} lies outside any class folder")
    _check_empty(parents, folders, where)
    wrapper = _wrapper(set(parents))
    inner = [parts[wrapper:] for parts in parents]
    if all(len(parts) > 1 and parts[0].lower() in SPLITS for parts in set(inner)):
        return [Place("/".join(parts[1:]), SPLITS[parts[0].lower()]) for parts in inner]
    return [Place("/".join(parts), None) for parts in inner]


def _wrapper(classes: set[tuple[str, ...]]) -> int:
    """How many leading folders all classes share, leaving each at least one, and never a split."""
    depth = 0
    while all(len(parts) > depth + 1 for parts in classes):
        tops = {parts[depth] for parts in classes}
        if len(tops) > 1 or next(iter(tops)).lower() in SPLITS:
            break
        depth += 1
    return depth


def _check_empty(parents: Sequence[tuple[str, ...]], folders: Iterable[str], where: str) -> None:
    """An innermost folder without an image is a class that lost its images."""
    full = {parts[:depth] for parts in set(parents) for depth in range(len(parts) + 1)}
    for folder in sorted(folders):
        if not is_hidden(folder) and PurePosixPath(folder).parts not in full:
            raise DataError(f"{where}: class {folder.rstrip('/')!r} is empty: add images or remove it")
