"""What this machine can drive, what is missing for the rest, and which devices answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hetero_devices.devices import emulation
from hetero_devices.devices.browser import packages
from hetero_devices.devices.profile import load_profile
from hetero_devices.devices.registry import build
from hetero_devices.errors import HeteroError
from hetero_devices.runtimes import installed


@dataclass(frozen=True)
class Finding:
    """One line; advice: what to do about it, empty when nothing."""

    name: str
    state: Literal["ok", "missing", "fails"]
    detail: str
    advice: str = ""


def examine(names: Iterable[str] = ()) -> list[Finding]:
    """Every kind of device, then each named one, contacted."""
    return [*_kinds(), *map(_answers, names)]


def _kinds() -> Iterator[Finding]:
    runtimes = {name: version for name, version in installed().items() if version}
    if runtimes:
        yield Finding("host", "ok", ", ".join(f"{name} {version}" for name, version in runtimes.items()))
    else:
        yield Finding("host", "missing", "no runtime", "pip install 'hetero[device-onnx,device-litert]'")
    yield _program("ssh", "ssh", "install the OpenSSH client")
    yield _program("adb", "adb", "install Android's platform tools, e.g. the package adb")
    emulated, page = emulation.default_cache(), packages.default_cache()
    yield _cached("emulated", emulated, lambda: emulation.open_machine(emulated, "cortex-a76"))
    yield _cached("browser", page, packages.runtimes)


def _program(kind: str, program: str, advice: str) -> Finding:
    path = shutil.which(program)
    return Finding(kind, "ok", path) if path else Finding(kind, "missing", f"no {program}", advice)


def _cached(kind: str, cache: Path, opened: Callable[[], object]) -> Finding:
    try:
        opened()
    except HeteroError as error:
        return Finding(kind, "missing", str(error).partition(":")[0], f"hetero devices setup {kind}")
    return Finding(kind, "ok", str(cache))


def _answers(name: str) -> Finding:
    try:
        profile = load_profile(name)
        if profile.kind == "browser" and not profile.connection.get("command"):
            return Finding(name, "ok", "waits for somebody to open its page", f"hetero devices probe {name}")
        with closing(build(name, profile)) as device:
            found = device.info()
    except HeteroError as error:
        return Finding(name, "fails", " ".join(str(error).split()))
    runtimes = [f"{runtime} {version}" for runtime, version in found["runtimes"].items() if version]
    state: Literal["ok", "fails"] = "ok" if runtimes else "fails"
    detail = f"{found['cpu'].get('model') or found['cpu']['machine']}: {', '.join(runtimes) or 'no runtime'}"
    return Finding(name, state, detail)
