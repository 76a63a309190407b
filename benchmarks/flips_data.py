"""The upgrades of `flips.py`: what the old model was trained on, and what the new one is.

CIFAR-100: classes 0-49 in name order, then all 100, closed set: test images of classes seen in training.
Omniglot: the first 15 alphabets of the background set by name, then all 30; tested on the evaluation set.
Each is a zip made from the published file, which differs only in what it leaves out.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from hetero_devices.errors import DataError
from hetero_devices.files import atomic_file

CIFAR, OMNIGLOT = "cifar100", "omniglot"


def archives(data: str, root: Path, folder: Path) -> tuple[Path, Path]:
    """(old, new) training data with the test images of both, written into `folder` where they are missing."""
    if data == CIFAR:
        source = root / "cifar100.zip"
        old = set(_names(source, 1)[:50])
        kept = _copied(folder / "old.zip", {source: lambda name: name if name.split("/")[1] in old else None})
        return kept, source
    background, evaluation = (
        root / "omniglot" / f"images_{part}.zip" for part in ("background", "evaluation")
    )
    alphabets = _names(background, 1)

    def train(kept: list[str]) -> Callable[[str], str | None]:
        return lambda name: f"train/{name.split('/', 1)[1]}" if name.split("/")[1] in kept else None

    def test(name: str) -> str:
        return f"test/{name.split('/', 1)[1]}"

    return (
        _copied(folder / "old.zip", {background: train(alphabets[:15]), evaluation: test}),
        _copied(folder / "new.zip", {background: train(alphabets), evaluation: test}),
    )


def _names(source: Path, depth: int) -> list[str]:
    """The distinct folders at this depth of the archive's images, sorted."""
    if not source.is_file():
        raise DataError(f"{source} is missing: give the folder of the data sets by --root")
    with zipfile.ZipFile(source) as archive:
        return sorted({name.split("/")[depth] for name in archive.namelist() if _is_file(name)})


def _is_file(name: str) -> bool:
    return not name.endswith("/") and name.count("/") > 1


def _copied(target: Path, sources: dict[Path, Callable[[str], str | None]]) -> Path:
    if target.exists():
        return target
    with atomic_file(target) as temporary, zipfile.ZipFile(temporary, "w") as copy:
        for source, renamed in sources.items():
            with zipfile.ZipFile(source) as archive:
                for name in filter(_is_file, archive.namelist()):
                    if new := renamed(name):
                        copy.writestr(zipfile.ZipInfo(new), archive.read(name))
    return target
