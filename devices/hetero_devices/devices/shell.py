"""Commands on a device behind a client program, `ssh` or `adb shell`, that hands one string to its shell.

What is run is always a fixed script for a POSIX shell; everything else reaches it as a quoted argument.
A script frames what it prints: before the first mark stands what a login shell's start-up files say, and
only a second mark, with the exit status, says that the command came to its end. The client's own exit code
cannot: 255 and 1 may be the command's as well.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from hetero_devices.devices.transport import Completed
from hetero_devices.errors import DeviceError

_MARK = "--hetero--"
_ENDED = re.compile(rb"\n--hetero-- (\d+)\n\Z")
_LAST_SIGNAL = 64
_LOGIN = 1 << 20  # bytes that a login shell's start-up files may print
_GRACE = 5.0  # seconds a client gets to end by itself

_ENTER = f"""\
echo "{_MARK}"
umask 077
unset CDPATH
cd -- "$1" 2>/dev/null || {{ mkdir -p -- "$1" && cd -- "$1"; }} || {{ printf "\\n{_MARK} 126\\n"; exit; }}
shift
"""
_LEAVE = f'printf "\\n%s %s\\n" "{_MARK}" "$?"\n'

# The command lives only while standard input is open: the host closes it after a time limit, and the device
# does when the connection or the host is gone. KILL, because a stopped process takes no other signal; a group
# of its own (setsid, where there is one), because an interpreter may be a wrapper.
_RUN = """\
exec 3<&0
$(command -v setsid) "$@" </dev/null 3<&- &
job=$!
{ read -r _ <&3; kill -KILL -"$job" || kill -KILL "$job"; } >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait "$job"
status=$?
kill "$watch" 2>/dev/null
(exit "$status")
"""


@dataclass(frozen=True)
class Output:
    """What a script that came to its end printed; `stdout` stands at the beginning of its own part."""

    stdout: IO[bytes]
    length: int
    status: int
    stderr: str

    def completed(self) -> Completed:
        printed = self.stdout.read(self.length).decode(errors="replace")
        killed = 128 < self.status <= 128 + _LAST_SIGNAL
        return Completed(128 - self.status if killed else self.status, printed, self.stderr)


@dataclass(frozen=True)
class Shell:
    """A shell on the device called `name`.

    client: the words that start the client program, given one command line for over there.
    explain: what to tell the user, in one line, given what the client printed when it failed.
    """

    name: str
    client: Callable[[str], Sequence[str]]
    explain: Callable[[str], str]

    def run(self, argv: Sequence[str], folder: str, *, timeout: float) -> Completed:
        """Run a command in a folder over there, with nothing on its standard input; see `Transport.run`."""
        with self.script(_RUN, [folder, *argv], timeout=timeout, what=argv[0]) as output:
            return output.completed()

    def folder(self, path: str, *, timeout: float) -> str:
        """The absolute path of a folder over there, made when absent."""
        with self.script("pwd -P\n", [path], timeout=timeout, what="the device") as output:
            if output.status:
                raise DeviceError(f"{self.name}: no folder for work there: {last_line(output.stderr)}")
            return output.completed().stdout.rstrip("\n")

    @contextmanager
    def script(
        self,
        script: str,
        arguments: Sequence[str],
        *,
        timeout: float,
        what: str,
        feed: Callable[[IO[bytes]], None] | None = None,
    ) -> Iterator[Output]:
        """What a script printed, whose arguments are a folder to start in, made when absent, and its own.

        feed: writes its standard input, which otherwise is empty and open to its end. what: the name of it in
        messages. Raises DeviceError when it does not come to its end within `timeout` seconds.
        """
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = self._start(f"{script}{_LEAVE}", arguments, stdout.fileno(), stderr)
            ended = _wait(process, timeout, feed)
            output = _output(stdout, _text(stderr))
            if not ended:
                raise DeviceError(f"{self.name}: {what} did not end within {timeout:g} s")
            if output is None:
                raise self._lost(stdout, stderr)
            yield output

    @contextmanager
    def hold(self, argv: Sequence[str], folder: str, *, timeout: float) -> Iterator[str]:
        """See `Transport.hold`; a command that ends without an answer yields its last words instead."""
        with tempfile.TemporaryFile() as stderr:
            process = self._start(f'"$@"\n{_LEAVE}', [folder, *argv], subprocess.PIPE, stderr)
            try:
                answer = _answer(process, timeout)
                if answer is None and process.poll() is None:
                    raise DeviceError(f"{self.name}: {argv[0]} did not answer within {timeout:g} s")
                if answer is None:
                    raise DeviceError(f"{self.name}: {self.explain(_text(stderr))}")
                if not answer:
                    _end(process)  # what it said may arrive after its end did
                yield answer or last_line(_text(stderr))
            finally:
                _end(process)

    def _start(
        self, script: str, arguments: Sequence[str], stdout: int, stderr: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        # Standard error is a file: a client that leaves a process behind would keep a pipe open for ever.
        argv = self.client(_command_line(script, arguments))
        try:
            return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr)
        except OSError as error:
            raise DeviceError(f"{self.name}: cannot start {argv[0]}: {error.strerror}") from None

    def _lost(self, stdout: IO[bytes], stderr: IO[bytes]) -> DeviceError:
        """Why there is no end: what the client says, unless the command had begun and says things itself."""
        stdout.seek(0)
        begun = f"{_MARK}\n".encode() in stdout.read(_LOGIN)
        return DeviceError(
            f"{self.name}: {'the connection was lost' if begun else self.explain(_text(stderr))}"
        )


def last_line(text: str) -> str:
    """The last thing a program said, for one-line messages."""
    return (text.strip().splitlines() or ["it said nothing"])[-1].strip()


def _command_line(script: str, arguments: Sequence[str]) -> str:
    """One line for the login shell over there: a POSIX shell with the script and its arguments."""
    return "exec sh -c " + " ".join(map(shlex.quote, [_ENTER + script, "sh", *arguments]))


def _wait(process: subprocess.Popen[bytes], timeout: float, feed: Callable[[IO[bytes]], None] | None) -> bool:
    """Feed the process and wait; whether it ended within `timeout` seconds. It has ended afterwards."""
    assert process.stdin is not None
    started = time.monotonic()
    watchdog = threading.Timer(timeout, process.kill)
    try:
        if feed is not None:
            watchdog.start()  # a write to a device that hangs would block for ever
            with suppress(BrokenPipeError):
                feed(process.stdin)
                process.stdin.close()
        process.wait(max(0.0, timeout - time.monotonic() + started))
    except subprocess.TimeoutExpired:
        return False
    finally:
        watchdog.cancel()
        _end(process)
    return time.monotonic() - started < timeout


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the input of a client, by which the command over there ends, and see the client off."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _output(stdout: IO[bytes], stderr: str) -> Output | None:
    """What stands between the marks; None when the second is absent."""
    stdout.seek(0)
    while (line := stdout.readline()) != f"{_MARK}\n".encode():
        if not line:
            return None
    start = stdout.tell()
    length = stdout.seek(0, os.SEEK_END) - start
    stdout.seek(max(start, start + length - 64))
    ended = _ENDED.search(stdout.read())
    stdout.seek(start)
    return Output(stdout, length - len(ended[0]), int(ended[1]), stderr) if ended else None


def _answer(process: subprocess.Popen[bytes], timeout: float) -> str | None:
    """The first line after the mark, "" when the command ended without one, None when none came."""
    assert process.stdout is not None
    deadline, said = time.monotonic() + timeout, b""
    mark = f"{_MARK}\n".encode()
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            return None
        if not (chunk := os.read(process.stdout.fileno(), 4096)):
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            return None
        said += chunk
        _, marked, answer = said.partition(mark)
        if marked and _ENDED.search(answer):
            return _ENDED.sub(b"", answer).decode(errors="replace").strip()
        if marked and answer.partition(b"\n")[1] and answer.strip():
            return answer.partition(b"\n")[0].decode(errors="replace").strip()
    return None


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
