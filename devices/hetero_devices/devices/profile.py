"""Device profiles: a TOML file says what a device is, how it is reached and what it may cost.

title = "Raspberry Pi 5, 8 GB"
kind = "ssh"
[hardware]
cpu = "4x Cortex-A76 2.4 GHz"
[connection]
host = "pi.local"
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import hetero_devices
from hetero_devices import strict
from hetero_devices.errors import DeviceError
from hetero_devices.files import atomic_file

Kind = Literal["host", "ssh", "adb", "browser", "emulated"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the machine is, for people and reports; None is unknown. memory_mb in 10^6 bytes."""

    cpu: str | None = None
    cores: int | None = None
    memory_mb: float | None = None
    accelerators: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one inference may cost there: gates of `hetero bench`; None is no limit. Sizes in 10^6 bytes."""

    latency_ms: float | None = None
    memory_mb: float | None = None
    size_mb: float | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """One device. connection: what its kind needs to reach it, checked by that kind.

    formats: those its runtimes execute. tested: how far this description was tried on the real thing.
    """

    title: str
    kind: Kind
    tested: str = ""
    formats: tuple[str, ...] = ("onnx", "tflite")
    hardware: Hardware = Hardware()
    budget: Budget = Budget()
    connection: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_toml(cls, text: str, where: str) -> DeviceProfile:
        """Parse; DeviceError names the place and what is wrong there."""
        try:
            fields = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise DeviceError(f"{where} is no valid TOML: {error}") from None
        return strict.decode(cls, fields, where, DeviceError, defaults=True)

    def to_toml(self) -> str:
        """What `from_toml` reads."""
        return "\n".join(_toml(asdict(self))) + "\n"


def own_folder() -> Path:
    """Where the user's profiles are: `$XDG_CONFIG_HOME/hetero/devices`, by default under ~/.config."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "hetero" / "devices"


def shipped_folder() -> Path:
    """The profiles that come with this package: beside it in a checkout, inside it when installed."""
    package = Path(hetero_devices.__file__).parent
    inside = package / "profiles"
    return inside if inside.is_dir() else package.parent / "profiles"


def profiles() -> dict[str, Path]:
    """Name -> file of every known profile; the user's own hide shipped ones of the same name."""
    found: dict[str, Path] = {}
    for folder in (shipped_folder(), own_folder()):
        found |= {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return found


def load_profile(name: str) -> DeviceProfile:
    """The profile of that name; DeviceError lists the known ones."""
    known = profiles()
    if name not in known:
        raise DeviceError(
            f"there is no device {name!r}: known are {', '.join(known)}; add one with 'hetero devices add'"
        )
    try:
        text = known[name].read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"cannot read {known[name]}: {error}") from None
    return DeviceProfile.from_toml(text, str(known[name]))


def add_profile(name: str, profile: DeviceProfile) -> Path:
    """Keep a profile under `name` in the user's folder, replacing nothing; the file's path."""
    if not _NAME.fullmatch(name):
        raise DeviceError(f"{name!r} is no name for a device: use letters, digits, dot, dash and underscore")
    path = own_folder() / f"{name}.toml"
    if path.exists():
        raise DeviceError(
            f"there is already a device {name!r} at {path}: 'hetero devices remove {name}' first"
        )
    with atomic_file(path) as temporary:
        temporary.write_text(profile.to_toml(), encoding="utf-8")
    return path


def remove_profile(name: str) -> Path:
    """Delete the user's profile of that name; DeviceError when there is none, or only a shipped one."""
    own = {path.stem: path for path in own_folder().glob("*.toml")}
    if name not in own:
        raise DeviceError(
            f"you have no device {name!r} of your own: you have {', '.join(sorted(own)) or 'none'}"
        )
    own[name].unlink()
    return own[name]


def parse_setting(pair: str) -> tuple[str, Any]:
    """`port=8022` -> ("port", 8022): the value is TOML, and a string where it is none (`host=pi.local`)."""
    key, equals, text = pair.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        raise DeviceError(f"{pair!r} is not of the form key=value")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return key, text


def _toml(fields: Mapping[str, Any]) -> Iterator[str]:
    """Lines of plain values, then a section for each mapping; None is left out, as TOML has none."""
    for key, value in fields.items():
        if not isinstance(value, Mapping) and value is not None:
            yield f"{key} = {_value(value)}"
    for key, value in fields.items():
        if isinstance(value, Mapping) and any(each is not None for each in value.values()):
            yield f"[{key}]"
            yield from _toml(value)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value)  # strings, numbers and booleans are written alike in JSON and TOML
