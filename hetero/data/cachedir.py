"""Where decoded data are kept, and what to say when that place is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hetero_devices.errors import DataError, DiskFull


def cache_dir() -> Path:
    """$HETERO_CACHE, else $XDG_CACHE_HOME/hetero, else ~/.cache/hetero. Not created here."""
    if chosen := os.environ.get("HETERO_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hetero"


@contextmanager
def explain_full_disk(needed: int) -> Iterator[None]:
    """Turn a full disk or an unwritable cache into a DataError. needed: bytes about to be written."""
    try:
        yield
    except DiskFull:
        raise _no_room(needed) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(needed) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise DataError(
                f"cannot write the cache {cache_dir()}: {error.strerror}; "
                "set HETERO_CACHE to a writable place"
            ) from None
        raise


def _no_room(needed: int) -> DataError:
    return DataError(
        f"no space left in {cache_dir()}: need about {max(1, round(needed / 1e6))} MB; "
        "free some or set HETERO_CACHE to a larger place"
    )
