"""Content digests, remembered so that a large archive is hashed once."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hetero.data.cachedir import cache_dir, explain_full_disk
from hetero_devices.errors import DataError
from hetero_devices.files import atomic_file, sha256_file


def file_digest(path: Path) -> str:
    """sha256 of a file in hex; remembered under the cache by (path, size, modification time)."""
    try:
        stat = path.stat()
        identity = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
        remembered = cache_dir() / "digests" / hashlib.sha256(identity.encode()).hexdigest()[:32]
        if remembered.is_file() and len(digest := remembered.read_text()) == 64:
            return digest
        digest = sha256_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    with explain_full_disk(needed=64), atomic_file(remembered) as temporary:
        temporary.write_text(digest)
    return digest
