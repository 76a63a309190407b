"""The data sets that are known by name: their files, digests, splits and default protocol.

omniglot: trains on images_background.zip (964 characters of 30 alphabets), tests on images_evaluation.zip
  (659 characters of 20 alphabets); gallery of drawer 1. Validation: whole alphabets, the last ones by name,
  so that no script is on both sides.
cifar100: classes in name order, 0-49 train with the images of train/, 50-99 test with the images of test/;
  leave-one-out.
cifar100-closed: all 100 classes on both sides, the images of train/ and of test/; leave-one-out.
caltech101: classes in name order, the first 50 train, the last 50 test; leave-one-out.

Validation of cifar100 and caltech101: the last training classes by name; of cifar100-closed the last images
of every class in train/.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hetero.data.archive import ArchiveSource
from hetero.data.cache import Decoded, decoded
from hetero.data.cachedir import cache_dir
from hetero.data.digests import file_digest
from hetero.data.download import download
from hetero.data.imageset import ImageSet
from hetero.data.splits import Splits, by_column, cut, from_classes
from hetero_devices.errors import DataError

Split = Callable[[list[Decoded], float], Splits]


@dataclass(frozen=True)
class NamedSet:
    """A published data set. files: path relative to a data root -> sha256; split: from the decoded files."""

    files: dict[str, str]
    split: Split
    group_pattern: str | None = None

    def load(self, size: int, root: Path | None, base_url: str | None, validation_share: float) -> Splits:
        paths = [find(name, digest, root, base_url) for name, digest in self.files.items()]
        return self.split(
            [decoded(ArchiveSource(p, self.group_pattern), size) for p in paths], validation_share
        )


def find(name: str, sha256: str, root: Path | None, base_url: str | None) -> Path:
    """The file `name` with the given digest: under `root`, $HETERO_DATA_ROOT or the cache, else downloaded.

    Downloads come from `base_url` or $HETERO_DATA_URL; there is no default host. Raises DataError when the
    file is nowhere, or where a file of that name has another content.
    """
    environment = os.environ.get("HETERO_DATA_ROOT")
    kept = cache_dir() / "downloads"
    folders = [folder for folder in (root, environment and Path(environment), kept) if folder]
    for folder in folders:
        if (folder / name).is_file():
            return _checked(folder / name, sha256)
    url = base_url or os.environ.get("HETERO_DATA_URL")
    if not url:
        raise DataError(
            f"{name} is not in {' or '.join(map(str, folders))}: "
            "set HETERO_DATA_ROOT to the folder that holds it, or HETERO_DATA_URL to where it can be fetched"
        )
    return download(f"{url.rstrip('/')}/{name}", kept / name, sha256)


def _checked(path: Path, sha256: str) -> Path:
    if (found := file_digest(path)) != sha256:
        raise DataError(
            f"{path} has sha256 {found[:12]}..., expected {sha256[:12]}...: remove it or replace it"
        )
    return path


def _split_omniglot(files: list[Decoded], validation_share: float) -> Splits:
    background, evaluation = (file.images for file in files)
    alphabets = sorted({alphabet(name) for name in background.class_names})
    parts = cut(alphabets, validation_share, "validation")
    train, validation = (
        background.classes(name for name in background.class_names if alphabet(name) in part)
        for part in parts
    )
    return Splits(train, validation, evaluation, protocol="group=1")


def alphabet(class_name: str) -> str:
    return class_name.partition("/")[0]


def _split_cifar100(files: list[Decoded], validation_share: float) -> Splits:
    images = files[0].images
    names = images.class_names
    assert files[0].splits is not None, "the file of this digest has train/ and test/"
    parts = by_column(images, files[0].splits, validation_share=0)
    train, test = parts.train.classes(names[:50]), parts.test.classes(names[50:])
    return _hold_out(train, test, validation_share)


def _split_cifar100_closed(files: list[Decoded], validation_share: float) -> Splits:
    assert files[0].splits is not None, "the file of this digest has train/ and test/"
    return by_column(files[0].images, files[0].splits, validation_share)


def _split_caltech101(files: list[Decoded], validation_share: float) -> Splits:
    images = files[0].images
    names = images.class_names
    return _hold_out(images.classes(names[:50]), images.classes(names[50:]), validation_share)


def _hold_out(train: ImageSet, test: ImageSet, validation_share: float) -> Splits:
    inner = from_classes(train, train.class_names, (), validation_share)
    return Splits(inner.train, inner.validation, test)


_OMNIGLOT = {
    "background": "ed29478c39de94b0e88c15d4610c184ecd723a18e439877b8012953e22386414",
    "evaluation": "4adf3fd49a10cd5b622aa11bb416fc7c3a3488900975d95549d53a1845a08c23",
}

_CIFAR100 = {"cifar100.zip": "d0a7f41eb467aa8a1175790fc2c0ecc0c0422a1a0d0354aa12f9d8c9f7abab2e"}

NAMED = {
    "omniglot": NamedSet(
        {f"omniglot/images_{part}.zip": sha256 for part, sha256 in _OMNIGLOT.items()},
        _split_omniglot,
        group_pattern=r"_(\d+)\.",
    ),
    "cifar100": NamedSet(_CIFAR100, _split_cifar100),
    "cifar100-closed": NamedSet(_CIFAR100, _split_cifar100_closed),
    "caltech101": NamedSet(
        {"caltech101-96px.zip": "a4444710e40d8ed160247441004db9856ca03bc74c7d144a8b24930600a9c3e8"},
        _split_caltech101,
    ),
}
