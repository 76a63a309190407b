"""The device runner as one file, `runner.pyz`: this package, to be run by a bare Python with numpy there."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from hetero_devices.devices.remote import Runner
from hetero_devices.files import atomic_file

OLDEST_PYTHON = (3, 11)
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip file can name: the same sources give the same bytes
_FILE = 0o100644 << 16

# In words that every Python 3 understands: an older one is told so, not shown a SyntaxError.
_MAIN = """\
import sys

if sys.version_info < {oldest}:
    found = "%d.%d" % sys.version_info[:2]
    sys.exit("error: the runner needs Python {spelled} or newer, %s is Python %s" % (sys.executable, found))
try:
    import numpy
except ImportError:
    install = sys.executable + " -m pip install numpy onnxruntime ai-edge-litert"
    sys.exit("error: numpy is not installed on this device: run there: " + install)

from hetero_devices.runner import main

sys.exit(main())
"""


def runner_bytes() -> bytes:
    """The file's content, the same for the same sources; works from a checkout and an installed wheel."""
    content = io.BytesIO()
    content.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(content, "a") as archive:  # stored: a deflated one depends on the zlib at hand
        main = _MAIN.format(oldest=OLDEST_PYTHON, spelled=".".join(map(str, OLDEST_PYTHON)))
        _add(archive, "__main__.py", main.encode())
        for name, source in _sources(resources.files("hetero_devices"), "hetero_devices"):
            _add(archive, name, source)
    return content.getvalue()


def write_runner(path: Path) -> None:
    """Write the runner, executable, whole or not at all. It needs Python >= 3.11, numpy and a runtime."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(runner_bytes())
    path.chmod(path.stat().st_mode | 0o111)


def python_runner(python: str) -> Runner:
    """The runner that `python` over there executes.

    Its name holds its digest: hosts with other versions of this package do not take it from each other.
    """
    content = runner_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    local = _cache() / f"{digest}.pyz"
    if not local.is_file() or local.read_bytes() != content:
        write_runner(local)
    there = f"runner/{digest}.pyz"
    return Runner({there: local}, lambda workspace: (python, f"{workspace}/{there}"))


def _sources(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _sources(entry, name)
        elif name.endswith(".py"):
            yield name, entry.read_bytes()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr = _FILE
    archive.writestr(entry, content)


def _cache() -> Path:
    """Where the host keeps runners: under the cache folder of `hetero`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HETERO_CACHE") or Path(base) / "hetero") / "runner"
