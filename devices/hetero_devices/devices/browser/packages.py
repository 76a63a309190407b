"""The JavaScript runtimes of the page: fetched once by npm at pinned versions, checked, kept in the cache."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hetero_devices import strict
from hetero_devices.errors import DeviceError, MissingExtra, TransferError
from hetero_devices.files import atomic_directory

_LOCK = Path(__file__).with_name("packages.json")
_NPM_SECONDS = 600.0

# A worker knows no import map, so the one bare name that a package imports becomes a path beside it.
_BARE = {
    "@litertjs/core/dist/index.js": (b'"@litertjs/wasm-utils"', b'"../../wasm-utils/dist/index.js"'),
}


@dataclass(frozen=True, kw_only=True)
class Package:
    """One npm package: integrity is "sha512-" and the base64 digest of its tarball; files: those served."""

    version: str
    integrity: str
    files: tuple[str, ...]


def locked() -> dict[str, Package]:
    """Name -> package, as pinned by packages.json."""
    pinned = json.loads(_LOCK.read_text())
    return {name: strict.decode(Package, fields, name, DeviceError) for name, fields in pinned.items()}


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/hetero/browser`, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hetero" / "browser"


def address() -> str:
    """Path of a URL, above the packages: other pins get another one, so that browsers may keep them."""
    return f"/runtimes/{_pins()}"


def runtimes(cache: Path | None = None) -> dict[str, Path]:
    """Path of a URL -> file, of everything the page may fetch; MissingExtra when not set up."""
    home = _home(cache)
    if not home.is_dir():
        raise MissingExtra("the page's runtimes are not set up: run 'hetero devices setup browser'")
    return {f"{address()}/{name}": home / name for name in _served()}


def set_up(cache: Path | None = None) -> Path:
    """Fetch what is pinned, unless it is there; returns its folder, of about 40 MB.

    Raises MissingExtra without npm, DeviceError when npm cannot fetch, TransferError when a package is not
    the pinned one.
    """
    home = _home(cache)
    if home.is_dir():
        return home
    with tempfile.TemporaryDirectory(prefix="hetero-npm-") as name:
        _pack(Path(name))
        with atomic_directory(home) as folder:
            for package, pin in locked().items():
                unpack(Path(name) / _tarball(package, pin), package, pin, folder)
    return home


def unpack(tarball: Path, name: str, pin: Package, folder: Path) -> None:
    """Take a package's served files out of its tarball into `folder`; TransferError unless it is the one."""
    digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if pin.integrity != f"sha512-{digest}":
        raise TransferError(f"{name} {pin.version} is not the package that was pinned: try again later")
    with tarfile.open(tarball) as archive:
        for file in pin.files:
            member = archive.extractfile(f"package/{file}")
            assert member is not None, f"{file} is no file in the pinned {name}"
            target = folder / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_resolved(f"{name}/{file}", member.read()))


def _resolved(name: str, content: bytes) -> bytes:
    if name not in _BARE:
        return content
    bare, path = _BARE[name]
    assert content.count(bare) == 1, f"{name} of the pinned version imports {bare!r} once"
    return content.replace(bare, path)


def _pack(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingExtra("npm is not installed: install Node.js with npm (Debian: apt install npm)")
    specs = [f"{name}@{pin.version}" for name, pin in locked().items()]
    argv = [npm, "pack", "--ignore-scripts", "--loglevel=error", "--pack-destination", str(folder), *specs]
    try:
        done = subprocess.run(
            argv, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_NPM_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DeviceError(f"npm did not fetch the page's runtimes within {_NPM_SECONDS:g} s") from None
    if done.returncode:
        raise DeviceError(f"npm cannot fetch the page's runtimes: {_cause(done.stderr)}")


def _cause(stderr: str) -> str:
    lines = [line.removeprefix("npm error ") for line in stderr.splitlines() if line.startswith("npm error")]
    return (lines or stderr.splitlines() or ["it said nothing"])[-1]


def _home(cache: Path | None) -> Path:
    """A folder for these very pins: other versions get another one, and nothing is half replaced."""
    return (cache or default_cache()) / _pins()


def _pins() -> str:
    return hashlib.sha256(_LOCK.read_bytes() + repr(_BARE).encode()).hexdigest()[:12]


def _served() -> Iterable[str]:
    return (f"{name}/{file}" for name, pin in locked().items() for file in pin.files)


def _tarball(name: str, pin: Package) -> str:
    """How npm names a package's tarball."""
    return f"{name.removeprefix('@').replace('/', '-')}-{pin.version}.tgz"
