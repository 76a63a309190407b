"""A real sshd on loopback as a device: its own keys, home folder and PATH; and a line that breaks."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hetero_devices.devices.remote import RemoteDevice
from hetero_devices.devices.ssh import build
from tests.device_tools import need_tool

_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/user.pub
UsePAM no
PasswordAuthentication no
StrictModes no
PermitRootLogin yes
ForceCommand . {environment}; exec sh -c "$SSH_ORIGINAL_COMMAND"
"""


@dataclass
class Sshd:
    """A machine behind sshd. home: its home folder. bin: first on its PATH."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def workspace(self) -> Path:
        return self.home / ".cache/hetero"

    def device(self, name: str = "pi", *, through: int | None = None, **changes: Any) -> RemoteDevice:
        """A device of this machine; through: another port that leads here; changes: of its connection."""
        options = [f"UserKnownHostsFile={self.folder}/known", *changes.pop("options", [])]
        connection = {
            "host": "127.0.0.1",
            "port": through or self.port,
            "identity": str(self.folder / "user"),
            "python": sys.executable,
            "options": ["HostKeyAlias=pi", *options],
        }
        return build(name, connection | changes)

    def set(self, **variables: str) -> None:
        """Change what every later command there finds in its environment."""
        self.environment |= variables
        lines = [f"export {key}={shlex.quote(value)}" for key, value in self.environment.items()]
        home = shlex.quote(str(self.home))
        (self.folder / "environment").write_text("\n".join([*lines, f"cd {home}", ""]))

    def program(self, name: str, text: str) -> str:
        """Put a shell script on its PATH; the script's path."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)
        return str(path)

    def python(self, before_run: str) -> str:
        """An interpreter that notes the runner's processes in ~/runs and does something before they work."""
        hook = f'case " $* " in *" run "*) echo $$ >>"$HOME/runs"\n{before_run};; esac\n'
        return self.program("hooked", f'{hook}exec {shlex.quote(sys.executable)} "$@"\n')

    def runs(self) -> list[int]:
        """Process ids of the jobs begun by an interpreter of `python`."""
        file = self.home / "runs"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def sessions(self) -> list[int]:
        """Process ids of the connections that are open."""
        assert self.process is not None
        return children(self.process.pid)


def children(process: int) -> list[int]:
    """Process ids of all descendants."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    words = listed.split()
    parents = dict(zip(map(int, words[::2]), map(int, words[1::2]), strict=True))

    def descends(candidate: int) -> bool:
        return candidate in parents and (parents[candidate] == process or descends(parents[candidate]))

    return [candidate for candidate in parents if descends(candidate)]


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for a condition; fail when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(process: int) -> bool:
    """Whether a process is there and no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextmanager
def serve(folder: Path) -> Iterator[Sshd]:
    """An sshd with a fresh home for the length of the context."""
    program = need_tool("sshd", "openssh-server")
    need_tool("ssh", "openssh-client")
    if os.geteuid() == 0:  # Debian's unit makes it; without the unit nobody does
        Path("/run/sshd").mkdir(exist_ok=True)
    machine = Sshd(folder, free_port())
    for name in ("home", "bin"):
        (folder / name).mkdir(parents=True)
    for name in ("host", "user"):
        make_key(folder / name)
    know_host(machine)
    machine.set(HOME=str(machine.home), PATH=f"{folder}/bin:/usr/bin:/bin")
    config = _CONFIG.format(port=machine.port, folder=folder, environment=folder / "environment")
    (folder / "sshd_config").write_text(config)
    argv = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("wb") as log, subprocess.Popen(argv, stderr=log) as process:
        machine.process = process
        try:
            until(lambda: answers(machine.port))
            yield machine
        finally:
            for pid in (*machine.sessions(), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def make_key(path: Path) -> None:
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def know_host(machine: Sshd) -> None:
    """Accept the machine's present host key, as a user does at the first contact."""
    key = " ".join((machine.folder / "host.pub").read_text().split()[:2])
    (machine.folder / "known").write_text(f"pi {key}\n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Line:
    """A TCP line to a port of this machine that can be cut: at once, or after so many bytes to it."""

    def __init__(self, target: int, after: int | None = None) -> None:
        self._target, self._left = target, after
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop every connection, and let no new one through."""
        for end in (self._server, *self._sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                for source, sink, counted in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._copy, args=(source, sink, counted), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                if counted and self._left is not None:
                    self._left -= len(chunk)
                    if self._left < 0:
                        self.cut()
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
