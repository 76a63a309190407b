"""This machine as a device: every job in a fresh process that cannot import torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import hetero_devices
from hetero_devices.devices.device import Result
from hetero_devices.devices.job import EMBEDDINGS, FAILURE, STATISTICS, Job, Profile
from hetero_devices.errors import DeviceError, MissingExtra
from hetero_devices.files import read_json, write_json

_INHERITED = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
_THREAD_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class HostDevice:
    """Runs `python -m hetero_devices run JOB.json`.

    timeout: seconds one process may take. python: the interpreter, by default the running one.
    """

    timeout: float = 900.0
    python: str = sys.executable

    @property
    def name(self) -> str:
        return "host"

    def run(self, job: Job) -> Result:
        """See `Device.run`. Memory is measured in a process of its own, after the rest."""
        others = tuple(task for task in job.tasks if task != "memory")
        if "memory" not in job.tasks or not others:
            return self._process(job)
        result = self._process(replace(job, tasks=others))
        memory = self._process(replace(job, tasks=("memory",))).profile
        return replace(result, profile=replace(result.profile, peak_memory_mb=memory.peak_memory_mb))

    def _process(self, job: Job) -> Result:
        with tempfile.TemporaryDirectory(prefix="hetero-job-") as name:
            folder = Path(name)
            description = folder / "job.json"
            write_json(description, replace(job.relative_to(Path.cwd()), output=name).to_json())
            self._execute(description, job.threads)
            return _collect(folder, "embed" in job.tasks)

    def _execute(self, description: Path, threads: int) -> None:
        try:
            done = subprocess.run(
                [self.python, "-m", "hetero_devices", "run", str(description)],
                cwd=description.parent,
                env=_environment(threads),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.name}: the job did not end within {self.timeout:g} s") from None
        except OSError as error:
            raise DeviceError(f"{self.name}: cannot start {self.python}: {error.strerror}") from None
        if done.returncode:
            raise _failure(self.name, description.parent / FAILURE, done)


def _environment(threads: int) -> dict[str, str]:
    """Only what a runner needs; PYTHONPATH stays, after the root this package was imported from."""
    root = str(Path(hetero_devices.__file__).parents[1])
    search = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
    return inherited | dict.fromkeys(_THREAD_POOLS, str(threads)) | {"PYTHONPATH": os.pathsep.join(search)}


def _collect(folder: Path, embedded: bool) -> Result:
    profile = Profile.from_json(read_json(folder / STATISTICS))
    return Result(np.load(folder / EMBEDDINGS, allow_pickle=False) if embedded else None, profile)


def _failure(
    device: str, report: Path, done: subprocess.CompletedProcess[bytes]
) -> DeviceError | MissingExtra:
    """What the runner said in its report, else how its process ended."""
    if report.is_file():
        failure = read_json(report)
        if failure["error"] == MissingExtra.__name__:
            return MissingExtra(failure["message"])
        return DeviceError(f"{device}: {failure['message']}")
    if done.returncode < 0:
        cause = signal.strsignal(-done.returncode) or "unknown"
        return DeviceError(f"{device}: the runner was killed by signal {-done.returncode} ({cause})")
    last = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    return DeviceError(f"{device}: the runner failed with exit code {done.returncode}: {last}")
