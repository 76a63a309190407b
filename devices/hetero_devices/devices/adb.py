"""An Android device through the system's `adb`: no app, the C runner or a Python that is there."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from hetero_devices import strict
from hetero_devices.devices.remote import RemoteDevice, Runner
from hetero_devices.devices.shell import Shell, last_line
from hetero_devices.devices.transport import Completed
from hetero_devices.devices.zipapp import python_runner
from hetero_devices.errors import DeviceError
from hetero_devices.files import sha256_file

_SHORT = 60.0  # seconds for what moves no data

# Files arrive as incoming/X/0, 1, ...; they become the paths given only once all of them are there.
_PLACE = """\
new=$1; shift
member=0
for path do
  mkdir -p -- "./${path%/*}" && mv -f -- "$new/$member" "./$path" || { rm -rf "$new"; exit 1; }
  member=$((member + 1))
done
rm -rf "$new"
"""

_THERE = """\
number=0
for name do
  if [ -f "./$name" ]; then echo "$number"; fi
  number=$((number + 1))
done
"""

_DEVELOPER = "Settings > System > Developer options > USB debugging"

# What adb says instead of doing something, and what to do about it; the first that fits.
_STATES: tuple[tuple[str, str], ...] = (
    (
        r"device unauthorized|device still authorizing",
        "it has not authorised this computer: unlock it and accept the question about USB debugging",
    ),
    (r"device offline", "it is offline: plug it in again, or run `{adb} reconnect offline`"),
    (
        r"more than one device",
        "several devices are attached ({attached}): name one as `serial` in its profile",
    ),
    (r"device '.*' not found", "it is not attached (attached: {attached}): connect it, or correct `serial`"),
    (
        r"no devices",
        f"no device is attached: connect one and turn on {_DEVELOPER}; over Wi-Fi run `{{adb}} connect HOST`",
    ),
    (
        r"insufficient permissions|no permissions",
        "this user may not use the USB device: Debian has the rules in android-sdk-platform-tools-common",
    ),
    (r"cannot connect to daemon", "the adb server does not start: see `{adb} start-server`"),
)


@dataclass(frozen=True, kw_only=True)
class AdbConnection:
    """How to reach an Android device.

    adb: the words that start the client. serial: of the device, as `adb devices` lists it; not needed when
    one alone is attached. workspace: a folder over there that the shell user may write and execute in.
    runner: `c` needs program, the C runner built for the device, and libraries, the runtimes' shared
    libraries for it, all files here; `python` needs python, an interpreter over there that the shell user
    may start. timeout: seconds one job or one transfer may take.
    """

    adb: tuple[str, ...] = ("adb",)
    serial: str | None = None
    workspace: str = "/data/local/tmp/hetero"
    runner: Literal["c", "python"] = "c"
    program: str | None = None
    libraries: tuple[str, ...] = ()
    python: str = "python3"
    timeout: float = 900.0

    def __post_init__(self) -> None:
        if not self.adb or not all(self.adb):
            raise DeviceError(f"adb is started by words such as ['adb'], not by {list(self.adb)}")
        if not self.workspace.startswith("/") or "\0" in self.workspace:
            raise DeviceError(f"{self.workspace!r} is no absolute path on a device: give one as `workspace`")
        if self.serial is not None and not re.fullmatch(r"\w[\w.:-]*", self.serial, re.ASCII):
            raise DeviceError(f"{self.serial!r} is no serial of a device: see `adb devices`")

    def argv(self, *more: str) -> list[str]:
        serial = [] if self.serial is None else ["-s", self.serial]
        return [*self.adb, *serial, *more]


class AdbTransport:
    """A `Transport` over adb. Nothing is contacted before the first command."""

    def __init__(self, name: str, connection: AdbConnection) -> None:
        self._name = name
        self._connection = connection
        self._shell = Shell(name, lambda command: connection.argv("shell", "-T", command), self._explain)

    @property
    def name(self) -> str:
        return self._name

    @cached_property
    def workspace(self) -> str:
        """The folder on the device, absolute; made now."""
        return self._shell.folder(self._connection.workspace, timeout=_SHORT)

    def put(self, files: Mapping[str, Path]) -> None:
        """Copy local files to paths on the device, all or none; executable bits are kept."""
        new = f"incoming/{os.urandom(8).hex()}"
        try:
            for index, path in enumerate(files.values()):
                self._adb("push", str(path.absolute()), f"{self.workspace}/{new}/{index}")
        except DeviceError:
            self._clear(new)
            raise
        arguments = [self.workspace, new, *files]
        with self._shell.script(f"({_PLACE})\n", arguments, timeout=_SHORT, what="the device") as output:
            if output.status:
                raise DeviceError(f"{self.name}: {self._explain(output.stderr)}")

    def get(self, folder: str, names: Iterable[str], target: Path) -> None:
        """Copy those of the named files that exist in a folder on the device into the local `target`."""
        where, wanted = f"{self.workspace}/{folder}", list(names)
        with self._shell.script(_THERE, [where, *wanted], timeout=_SHORT, what="the device") as output:
            numbers = output.completed().stdout.split()
        for number in numbers:
            if not number.isdigit() or int(number) >= len(wanted):
                raise DeviceError(f"{self.name}: the device sent {number!r}, which was not asked for")
            name = wanted[int(number)]
            self._adb("pull", f"{where}/{name}", str(target / name))

    def run(self, argv: Sequence[str], *, timeout: float) -> Completed:
        """See `Transport.run`."""
        return self._shell.run(argv, self.workspace, timeout=timeout)

    def hold(self, argv: Sequence[str], *, timeout: float) -> AbstractContextManager[str]:
        """See `Transport.hold`."""
        return self._shell.hold(argv, self.workspace, timeout=timeout)

    def close(self) -> None:
        """Nothing is held: the adb server keeps its connection for others."""

    def _adb(self, *words: str) -> None:
        limit = self._connection.timeout
        try:
            done = subprocess.run(
                self._connection.argv(*words),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.name}: adb {words[0]} did not end within {limit:g} s") from None
        except OSError as error:
            raise DeviceError(f"{self.name}: cannot start adb: {error.strerror}") from None
        if done.returncode:
            raise DeviceError(
                f"{self.name}: {self._explain((done.stdout + done.stderr).decode(errors='replace'))}"
            )

    def _clear(self, folder: str) -> None:
        """Leave no half of a transfer behind; when the device is gone, the first error is the one to see."""
        try:
            self.run(["rm", "-rf", folder], timeout=_SHORT)
        except DeviceError:
            return

    def _explain(self, said: str) -> str:
        if "No space left" in said:
            old = f"{self._connection.workspace}/models"
            return f"no space left on the device: free some, or delete old models in {old}"
        for pattern, advice in _STATES:
            if re.search(pattern, said):
                return advice.format(adb=" ".join(self._connection.adb), attached=self._attached())
        return f"adb failed: {last_line(said)}" if said.strip() else "the connection was lost"

    def _attached(self) -> str:
        """The serials of the devices that adb sees, with their states."""
        listing = [*self._connection.adb, "devices"]
        try:
            done = subprocess.run(listing, capture_output=True, text=True, timeout=_SHORT, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return "none"
        found = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
        return ", ".join(f"{serial} ({state})" for serial, state in found) or "none"


def build(name: str, connection: Mapping[str, Any]) -> RemoteDevice:
    """The device of a profile; for `connection` see `AdbConnection`."""
    where = f"connection of device {name}"
    decoded = strict.decode(AdbConnection, connection, where, DeviceError, defaults=True)
    runner = python_runner(decoded.python) if decoded.runner == "python" else _c_runner(name, decoded)
    return RemoteDevice(AdbTransport(name, decoded), runner, decoded.timeout)


def _c_runner(name: str, connection: AdbConnection) -> Runner:
    """The program and its libraries in a folder named by what they are: it looks for them beside itself."""
    if connection.program is None:
        raise DeviceError(
            f"{name} needs the C runner built for it: set `program` and `libraries` in its profile"
        )
    program = Path(connection.program).expanduser()
    files = {"hetero-runner": program}
    for library in map(Path, connection.libraries):
        files[re.sub(r"(\.so)[.\d]*$", r"\1", library.name)] = library.expanduser()
    for path in files.values():
        if not path.is_file():
            raise DeviceError(f"{name}: there is no file {path} to bring there")
    content = "\n".join(f"{there} {sha256_file(local)}" for there, local in sorted(files.items()))
    folder = f"runner/{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    sent = {f"{folder}/{there}": local for there, local in files.items()}
    return Runner(sent, lambda workspace: (f"{workspace}/{folder}/hetero-runner",))
