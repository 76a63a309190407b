"""Opening a bundle: nothing missing, nothing changed, nothing unexplained, nothing outside its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero_devices.bundle.manifest import MANIFEST, FileRecord, Manifest, ModelFile
from hetero_devices.errors import BundleError, HeteroError
from hetero_devices.files import read_json, sha256_file

_REMEDY = "copy the bundle again or export it again"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk that passed `open`; make it with `Bundle.open`."""

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path, *, verify_hashes: bool = True) -> Bundle:
        """Read and check a bundle folder.

        Presence and size of every file are always checked, content by sha256 unless `verify_hashes` is False.
        Raises BundleError for a missing, changed, linked or unnamed file and for a manifest not understood.
        """
        if not path.is_dir():
            raise BundleError(f"no bundle at {path}: expected a folder written by 'hetero export'")
        manifest = _read_manifest(path / MANIFEST)
        _check_only(path, {record.file for record in manifest.files()} | {MANIFEST})
        for record in manifest.files():
            _check_file(path, record, verify_hashes)
        return cls(path, manifest)

    def model(self, format: str, precision: str) -> ModelFile:
        """The model of that format and precision; BundleError lists what there is."""
        for model in self.manifest.models:
            if (model.format, model.precision) == (format, precision):
                return model
        there = ", ".join(f"{model.format} {model.precision}" for model in self.manifest.models)
        raise BundleError(f"bundle {self.manifest.name} has no {format} {precision} model; it has {there}")

    def path(self, record: FileRecord) -> Path:
        """Where a file of the manifest lies."""
        return self.root / record.file

    def golden_images(self) -> npt.NDArray[np.uint8]:
        """uint8 [G, H, W, 3], as they enter the models."""
        size, count = self.manifest.preprocessing.size, self.manifest.golden.count
        return self._array(self.manifest.golden.images, np.uint8, (count, size, size, 3))

    def golden_vectors(self) -> npt.NDArray[np.float32]:
        """float32 [G, D], the float model's embeddings of the golden images."""
        shape = (self.manifest.golden.count, self.manifest.space.dim)
        return self._array(self.manifest.golden.vectors, np.float32, shape)

    def _array(self, record: FileRecord, dtype: type[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        try:
            # Mapped first: a header that promises more than the file holds must not allocate it.
            mapped = np.load(self.path(record), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"cannot read {record.file}: {error}") from None
        if mapped.dtype != dtype or mapped.shape != shape:
            found, expected = f"{mapped.dtype} {list(mapped.shape)}", f"{np.dtype(dtype)} {list(shape)}"
            raise BundleError(f"{record.file} holds {found}, the manifest says {expected}")
        return np.array(mapped)


def _read_manifest(path: Path) -> Manifest:
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path.parent} is not a bundle: it has no file {MANIFEST}")
    try:
        return Manifest.from_json(read_json(path))
    except BundleError:
        raise
    except RecursionError:
        raise BundleError(f"{path} is nested too deeply") from None
    except HeteroError as error:
        raise BundleError(str(error)) from None


def _check_only(root: Path, named: set[str]) -> None:
    for path in _walk(root):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            raise BundleError(f"bundle {root} holds the link {name}: a bundle consists of plain files")
        if not path.is_dir() and name not in named:
            raise BundleError(f"bundle {root} holds {name}, which its manifest does not name")


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root, followlinks=False):
        yield from (Path(folder) / name for name in sorted(folders + files))


def _check_file(root: Path, record: FileRecord, verify_hashes: bool) -> None:
    path = root / record.file
    if not path.is_file():
        raise BundleError(f"bundle {root} lacks {record.file}")
    if (size := path.stat().st_size) != record.bytes:
        raise BundleError(f"{record.file} has {size} bytes, the manifest says {record.bytes}: {_REMEDY}")
    if verify_hashes and sha256_file(path) != record.sha256:
        raise BundleError(f"{record.file} was changed, its sha256 is not the manifest's: {_REMEDY}")
