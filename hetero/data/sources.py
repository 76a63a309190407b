"""Which kind of source a path is."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from hetero.data.archive import ArchiveSource
from hetero.data.arrays import ArraySource
from hetero.data.folder import FolderSource
from hetero.data.manifest import ManifestSource
from hetero.data.source import Source
from hetero_devices.errors import DataError

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".txz", ".tar.xz", ".tar.bz2")


def open_source(path: Path, group_pattern: str | None = None) -> Source:
    """The source at `path`: a folder of classes, an archive of one, a manifest, or arrays.

    group_pattern: a regular expression on file names whose first group is the number of the image's group,
    for all but arrays. Raises DataError when nothing is there or it is none of these.
    """
    name = path.name.lower()
    if not path.exists():
        raise DataError(f"no data at {path}")
    if name.endswith((".npz", ".npy")) or (path / "images.npy").exists():
        return ArraySource(path)
    if path.is_dir():
        return FolderSource(path, group_pattern)
    if name.endswith((".csv", ".parquet")):
        return ManifestSource(path, group_pattern)
    if name.endswith(_ARCHIVES) or zipfile.is_zipfile(path) or tarfile.is_tarfile(path):
        return ArchiveSource(path, group_pattern)
    raise DataError(
        f"{path} is none of: a folder of class folders, {', '.join(_ARCHIVES)}, .csv, .parquet, .npz, .npy"
    )
