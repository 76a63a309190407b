"""What every kind of data source yields: records of encoded images, and a digest of the whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hetero_devices.errors import DataError

SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Record:
    """One image of a source, not yet read.

    key: its name inside the source, unique; split: "train", "validation", "test" or None;
    read: the encoded file's bytes (any format Pillow opens).
    """

    key: str
    class_name: str
    read: Callable[[], bytes]
    split: str | None = None
    group: int = 0
    is_query: bool | None = None
    is_gallery: bool | None = None


class Source(Protocol):
    """A place that images come from. `path` names it in messages."""

    @property
    def path(self) -> Path: ...

    def digest(self) -> str:
        """A text that changes with the content and with the options of reading it; keys the cache."""

    def records(self) -> Sequence[Record]:
        """All images, in the order in which they are cheapest to read. DataError when there are none."""


def group_of(key: str, pattern: str | None) -> int:
    """The number that `pattern` captures in a file's name, r"_(\\d+)\\." for an Omniglot drawer; else 0."""
    if pattern is None:
        return 0
    name = key.rpartition("/")[2]
    match = re.search(pattern, name)
    try:
        return int(match.group(1)) if match else _no_group(name, pattern)
    except (ValueError, IndexError):
        return _no_group(name, pattern)


def _no_group(name: str, pattern: str) -> int:
    raise DataError(f"group pattern {pattern!r} captures no number in {name!r}")


def check_split(name: str, where: str) -> str:
    """The canonical name of a split; DataError says `where` an unknown one stands."""
    try:
        return SPLITS[name.strip().lower()]
    except KeyError:
        raise DataError(f"{where}: split {name!r} is none of train, validation, test") from None


def read_bytes(path: Path) -> bytes:
    """A file's content, or a DataError that names it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def one_line(error: Exception) -> str:
    """What a library's exception says, without its line breaks; its type when it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
