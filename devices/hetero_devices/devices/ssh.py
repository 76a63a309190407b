"""Another machine through the system's `ssh`: one multiplexed connection, files as tar streams."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

from hetero_devices import strict
from hetero_devices.devices.remote import RemoteDevice
from hetero_devices.devices.shell import Shell, last_line
from hetero_devices.devices.transport import Completed
from hetero_devices.devices.zipapp import python_runner
from hetero_devices.errors import DeviceError, TransferError

_SHORT = 60.0  # seconds for what moves no data
_SOCKET_PATH = 80  # bytes: the system's limit is 104, and ssh appends 17

# The host is one word for ssh, and ssh_config may hand it to commands (ProxyCommand with %h).
_HOST = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9._:%\[\]-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@$\\+-]*")

_SETTINGS = (
    "BatchMode=yes",  # never asks: nobody may be there
    "StrictHostKeyChecking=yes",
    "ControlMaster=auto",
    "ControlPersist=60",  # a host that was killed leaves its connection behind for that long
    "ConnectTimeout=15",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "RequestTTY=no",
    "RemoteCommand=none",
    "PermitLocalCommand=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
)

# Members of the archive are called 0, 1, ...; they become the paths given only once all of them are whole.
_PUT = """\
new=$1; shift
place() {
  mkdir -p "$new" && tar -xof - -C "$new" || return
  member=0
  for path do
    mkdir -p -- "./${path%/*}" && mv -f -- "$new/$member" "./$path" || return
    member=$((member + 1))
  done
}
place "$@"
status=$?
rm -rf "$new"
(exit "$status")
"""

_GET = """\
for name do
  shift
  if [ -f "./$name" ]; then set -- "$@" "./$name"; fi
done
[ $# -eq 0 ] || tar -cf - -- "$@"
"""

# What ssh says when it cannot connect, and what to do about it.
_REFUSED: tuple[tuple[str, str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one it had: if you know why (a reinstalled device), forget the old one with "
        "`ssh-keygen -R {known}` and accept the new one by one `{ssh}`; if not, something else answers there",
    ),
    (
        "Host key verification failed",
        "its host key is not known here: run `{ssh}` once, compare the fingerprint and accept it",
    ),
    (
        "Permission denied (",
        "it does not accept the login: check user and identity, or run `{copy}` once",
    ),
)


@dataclass(frozen=True, kw_only=True)
class SshConnection:
    """How to reach a machine over ssh; what is None is left to the user's ssh_config.

    identity: file of the private key. python: the interpreter over there, a name on PATH or an absolute path.
    workspace: a folder over there, made when absent; relative to the home folder. options: more `-o` options
    of ssh, which win over those set here. timeout: seconds one job or one transfer may take.
    """

    host: str
    user: str | None = None
    port: int | None = None
    identity: str | None = None
    python: str = "python3"
    workspace: str = ".cache/hetero"
    options: tuple[str, ...] = ()
    timeout: float = 900.0

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            what = "a name, an address, or a Host of ssh_config"
            raise DeviceError(f"{self.host!r} is no host for ssh: give {what}")
        if self.user is not None and not _USER.fullmatch(self.user):
            raise DeviceError(f"{self.user!r} is no user name for ssh")
        for path in (self.python, self.workspace):
            if not path or "\0" in path:
                raise DeviceError(f"{path!r} is no path on {self.host}")

    def argv(self, *more: str) -> list[str]:
        """`ssh` with everything but the command; the user's options first, since ssh takes the first."""
        argv = ["ssh", *_options(self.options)]
        argv += [] if self.user is None else ["-l", self.user]
        argv += [] if self.port is None else ["-p", str(self.port)]
        if self.identity is not None:
            argv += ["-i", str(Path(self.identity).expanduser()), "-o", "IdentitiesOnly=yes"]
        return [*argv, *more, "--", self.host]

    def by_hand(self, program: str = "ssh") -> str:
        """The same login as a user would type it."""
        port = [] if self.port is None else ["-p", str(self.port)]
        return shlex.join([program, *port, self.host if self.user is None else f"{self.user}@{self.host}"])


class SshTransport:
    """A `Transport` over ssh. Nothing is contacted before the first command."""

    def __init__(self, name: str, connection: SshConnection) -> None:
        self._name = name
        self._connection = connection
        self._control: Path | None = None  # folder of the socket that all commands share
        self._shell = Shell(name, self._client, self._explain)

    @property
    def name(self) -> str:
        return self._name

    @cached_property
    def workspace(self) -> str:
        """The folder on the device, absolute; made now."""
        return self._shell.folder(self._connection.workspace, timeout=_SHORT)

    def put(self, files: Mapping[str, Path]) -> None:
        """Copy local files to paths on the device, all or none; executable bits are kept."""
        arguments = [self.workspace, f"incoming/{os.urandom(8).hex()}", *files]
        feed = partial(_write_tar, list(files.values()))
        limit = self._connection.timeout
        with self._shell.script(_PUT, arguments, timeout=limit, what="sending", feed=feed) as output:
            if output.status:
                raise DeviceError(f"{self.name}: {self._not_stored(output.stderr)}")

    def get(self, folder: str, names: Iterable[str], target: Path) -> None:
        """Copy those of the named files that exist in a folder on the device into the local `target`."""
        arguments = [f"{self.workspace}/{folder}", *names]
        limit = self._connection.timeout
        with self._shell.script(_GET, arguments, timeout=limit, what="fetching") as output:
            if output.status:
                raise DeviceError(f"{self.name}: cannot fetch results: {last_line(output.stderr)}")
            if output.length:
                self._unpack(output.stdout, set(arguments[1:]), target)

    def run(self, argv: Sequence[str], *, timeout: float) -> Completed:
        """See `Transport.run`."""
        return self._shell.run(argv, self.workspace, timeout=timeout)

    def hold(self, argv: Sequence[str], *, timeout: float) -> AbstractContextManager[str]:
        """See `Transport.hold`."""
        return self._shell.hold(argv, self.workspace, timeout=timeout)

    def close(self) -> None:
        """End the shared connection."""
        if self._control is None:
            return
        leave = self._connection.argv("-S", str(self._control / "s"), "-O", "exit")
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(leave, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
        shutil.rmtree(self._control, ignore_errors=True)
        self._control = None

    def _client(self, command: str) -> list[str]:
        if self._control is None:
            self._control = _private_folder()
        path = str(self._control / "s").replace("%", "%%")
        return [*self._connection.argv(*_options((*_SETTINGS, f"ControlPath={path}"))), command]

    def _explain(self, said: str) -> str:
        known = self._connection.host
        if self._connection.port is not None:
            known = f"[{known}]:{self._connection.port}"
        for words, advice in _REFUSED:
            if words in said:
                by_hand = self._connection.by_hand
                return advice.format(known=shlex.quote(known), ssh=by_hand(), copy=by_hand("ssh-copy-id"))
        return f"the connection failed: {last_line(said)}" if said.strip() else "the connection was lost"

    def _not_stored(self, said: str) -> str:
        if any(words in said for words in ("No space left", "Wrote only", "quota exceeded")):
            return f"no space left on the device: free some, or delete old models in {self.workspace}/models"
        return f"cannot store files in {self.workspace}: {last_line(said)}"

    def _unpack(self, archive: IO[bytes], wanted: set[str], target: Path) -> None:
        """Only plain files, only those asked for: what a device sends is not to be trusted with a path."""
        try:
            with tarfile.open(fileobj=archive, mode="r:") as members:
                for member in members:
                    name = member.name.removeprefix("./")
                    content = members.extractfile(member) if member.isreg() else None
                    if name not in wanted or content is None:
                        raise DeviceError(f"{self.name}: the device sent {name!r}, which was not asked for")
                    with (target / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
        except tarfile.TarError as error:
            raise TransferError(f"{self.name}: the results did not arrive whole: {error}") from None


def build(name: str, connection: Mapping[str, Any]) -> RemoteDevice:
    """The device of a profile; for `connection` see `SshConnection`."""
    where = f"connection of device {name}"
    decoded = strict.decode(SshConnection, connection, where, DeviceError, defaults=True)
    return RemoteDevice(SshTransport(name, decoded), python_runner(decoded.python), decoded.timeout)


def _options(options: Iterable[str]) -> list[str]:
    return [word for option in options for word in ("-o", option)]


def _private_folder() -> Path:
    """A new folder that nobody else can enter, with a path short enough for a socket."""
    folder = tempfile.mkdtemp(prefix="hetero-ssh-")
    if len(os.fsencode(folder)) <= _SOCKET_PATH:
        return Path(folder)
    os.rmdir(folder)
    return Path(tempfile.mkdtemp(prefix="hetero-ssh-", dir="/tmp"))


def _write_tar(files: Sequence[Path], pipe: IO[bytes]) -> None:
    """The files as 0, 1, ...; by hand, since tarfile's streams raise once more when dropped."""
    for index, path in enumerate(files):
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            member = tarfile.TarInfo(str(index))
            member.size, member.mtime = status.st_size, int(status.st_mtime)
            member.mode = 0o700 if status.st_mode & stat.S_IXUSR else 0o600
            pipe.write(member.tobuf(tarfile.GNU_FORMAT))
            shutil.copyfileobj(file, pipe)
            pipe.write(bytes(-member.size % tarfile.BLOCKSIZE))
    pipe.write(bytes(2 * tarfile.BLOCKSIZE))
