"""Files that are whole or absent: write to a temporary name beside the target, then rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError, DiskFull, HeteroError

_OURS = {".json", ".npy", ".png"}


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes `path`, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with disk_full_explained(path):
            yield temporary
        temporary.chmod(0o644 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Like `atomic_file` for a folder; an existing folder at `path` is replaced only by a finished one.

    It is replaced with all it holds: `refuse_others` first where a user names `path`.
    """
    path = path.resolve()  # the folder '.' has no name, and its parent is another one
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with disk_full_explained(path):
            yield temporary
        temporary.chmod(0o755 & ~_umask())
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_others(path: Path, marker: str, kind: str) -> None:
    """Raise DataError unless a folder of ours may be written to `path`.

    It may where nothing is, an empty folder, or one with the file `marker` and only files as we write them.
    kind: what it should be, for the message.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise DataError(f"{path} is a file: name a folder to write to")
    held = list(path.iterdir())
    if held and not (path / marker).is_file():
        raise DataError(f"{path} exists and is not {kind}: name another folder, so that nothing is lost")
    if foreign := sorted(each.name for each in held if each.suffix not in _OURS or each.is_dir()):
        raise DataError(f"{path} also holds {foreign[0]!r}, which would be lost: name another folder")


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a .npy file, whole or not at all."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file; HeteroError names the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise HeteroError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HeteroError(f"cannot read {path}: {error}") from None


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_full_explained(path: Path) -> Iterator[None]:
    """Turn "no space left" into DiskFull naming what was to be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and "requested and" not in str(error):
            raise  # numpy reports a short write as "N requested and M written", without a number
        raise DiskFull(f"no space left to write {path}: free some and run the same command again") from None


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
