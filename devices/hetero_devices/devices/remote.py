"""A machine reached through a transport: brings the runner and the model there once, then job after job."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hetero_devices.devices.device import Result
from hetero_devices.devices.job import EMBEDDINGS, FAILURE, STATISTICS, Job
from hetero_devices.devices.outcome import collect, memory_apart, parse_info
from hetero_devices.devices.transport import Completed, Transport
from hetero_devices.errors import DataError, DeviceBusy, DeviceError, TransferError
from hetero_devices.files import sha256_file, write_json

_LOCK = "device.lock"
_JOBS = "jobs"
_SHORT = 60.0  # seconds for what takes no inference


@dataclass(frozen=True)
class Runner:
    """The program that does jobs over there.

    files: path on the device -> local file. argv: the words that start it, given the device's workspace.
    Its verbs are those of `hetero-device`: run, info, hold.
    """

    files: dict[str, Path]
    argv: Callable[[str], Sequence[str]]


@dataclass
class RemoteDevice:
    """A `Device` over a `Transport`. timeout: seconds one job may take over there."""

    transport: Transport
    runner: Runner
    timeout: float = 900.0
    _sent: dict[str, str] = field(default_factory=dict, init=False, repr=False)  # path there -> sha256

    @property
    def name(self) -> str:
        return self.transport.name

    def run(self, job: Job) -> Result:
        """See `Device.run`. Raises DeviceBusy while another host uses the device."""
        self._install()
        with self._held():
            self._forget(_JOBS)  # a host that was killed left them; nobody else may have one now
            return memory_apart(job, self._retried)

    def info(self) -> dict[str, Any]:
        """What the machine says of itself: processor and runtimes, as `hetero-device info`."""
        self._install()
        done = self._command("info")
        if done.returncode:
            raise DeviceError(f"{self.name}: the runner does not start: {done.last_line}")
        return parse_info(self.name, done.stdout)

    def close(self) -> None:
        self.transport.close()

    def _retried(self, job: Job) -> Result:
        """A file that arrived damaged is sent once more."""
        try:
            return self._once(job)
        except TransferError:
            self._sent.clear()
            return self._once(job)

    def _once(self, job: Job) -> Result:
        model, images = Path(job.model), Path(job.images)
        for path in (model, images):
            if not path.is_file():
                raise DataError(f"no file at {path}")
        digests = {"model": sha256_file(model), "images": sha256_file(images)}
        there = f"models/{digests['model'][:16]}/{model.name}"
        self._send({there: model})
        folder = f"{_JOBS}/{os.urandom(8).hex()}"
        sent = replace(job, model=f"../../{there}", images="images.npy", output=".", digests=digests)
        try:
            self._deliver(folder, sent, images)
            done = self._command("run", f"{folder}/job.json", timeout=self.timeout)
            return self._fetch(folder, done, "embed" in job.tasks)
        finally:
            self._forget(folder)

    def _deliver(self, folder: str, job: Job, images: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="hetero-job-") as name:
            description = Path(name) / "job.json"
            write_json(description, job.to_json())
            self.transport.put({f"{folder}/job.json": description, f"{folder}/images.npy": images})

    def _fetch(self, folder: str, done: Completed, embedded: bool) -> Result:
        with tempfile.TemporaryDirectory(prefix="hetero-job-") as name:
            self.transport.get(folder, (FAILURE, STATISTICS, EMBEDDINGS), Path(name))
            if done.returncode and not (Path(name) / FAILURE).is_file():
                raise DeviceError(f"{self.name}: the runner {_ended(done)}")
            return collect(self.name, Path(name), embedded)

    def _forget(self, folder: str) -> None:
        """Leave no job behind; when the device is gone, the first error is the one to see."""
        try:
            self.transport.run(["rm", "-rf", folder], timeout=_SHORT)
        except DeviceError:
            return

    def _install(self) -> None:
        """Bring the runner there unless it is there, whole: unlike models, nothing else checks it."""
        wanted = {path: sha256_file(local) for path, local in self.runner.files.items()}
        wrong = [path for path in wanted if self._digest(path) != wanted[path]]
        for _ in range(2):
            if not wrong:
                return
            self.transport.put({path: self.runner.files[path] for path in wrong})
            wrong = [path for path in wrong if self._digest(path) not in (wanted[path], "")]
        if wrong:
            raise TransferError(f"{self.name}: the runner was damaged on its way there, twice")

    def _send(self, files: dict[str, Path]) -> None:
        """Bring files there unless they are there already, whole."""
        wanted = {path: sha256_file(local) for path, local in files.items()}
        unsure = [path for path in wanted if self._sent.get(path) != wanted[path]]
        missing = [path for path in unsure if self._digest(path) != wanted[path]]
        if missing:
            self.transport.put({path: files[path] for path in missing})
        self._sent |= {path: wanted[path] for path in unsure}

    def _digest(self, path: str) -> str:
        """sha256 of a file there, "" when it is absent or nothing there can tell."""
        done = self.transport.run(["sha256sum", path], timeout=_SHORT)
        digest = done.stdout.partition(" ")[0].lstrip("\\")  # it marks names that it had to escape
        return digest if done.returncode == 0 else ""

    def _command(self, *arguments: str, timeout: float = _SHORT) -> Completed:
        return self.transport.run([*self.runner.argv(self.transport.workspace), *arguments], timeout=timeout)

    @contextmanager
    def _held(self) -> Iterator[None]:
        argv = [*self.runner.argv(self.transport.workspace), "hold", _LOCK, _owner()]
        with self.transport.hold(argv, timeout=_SHORT) as answer:
            if answer.startswith("busy"):
                raise DeviceBusy(
                    f"{self.name} is in use by {answer[5:].strip() or 'another host'}: try later"
                )
            if answer != "held":
                raise DeviceError(f"{self.name}: the runner does not start: {answer or 'it said nothing'}")
            yield


def _ended(done: Completed) -> str:
    if done.returncode == -signal.SIGKILL:
        return "was killed: the device may be out of memory"
    if done.returncode < 0:
        return f"was killed by signal {-done.returncode}"
    return f"failed with exit code {done.returncode}: {done.last_line}"


def _owner() -> str:
    return f"{socket.gethostname()} (process {os.getpid()})"
