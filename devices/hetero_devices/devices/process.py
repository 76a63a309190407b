"""A job in a process of this machine that ends with it; shared by the host and the emulator."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hetero_devices.devices.device import Result
from hetero_devices.devices.job import FAILURE, Job
from hetero_devices.devices.outcome import collect, parse_info, reported
from hetero_devices.errors import DeviceError, MissingExtra
from hetero_devices.files import write_json


def run_process(
    device: str, runner: Sequence[str], job: Job, *, environment: Mapping[str, str], timeout: float
) -> Result:
    """Give the job to `runner run JOB.json`; paths of the job start at the current folder.

    device: its name in messages. timeout: seconds the process may take.
    Raises MissingExtra or DeviceError as `Device.run`.
    """
    with tempfile.TemporaryDirectory(prefix="hetero-job-") as name:
        folder = Path(name)
        description = folder / "job.json"
        write_json(description, replace(job.relative_to(Path.cwd()), output=name).to_json())
        done = _execute(device, [*runner, "run", str(description)], folder, environment, timeout)
        if done.returncode:
            raise _failure(device, folder / FAILURE, done)
        return collect(device, folder, "embed" in job.tasks)


def ask_process(
    device: str, runner: Sequence[str], *, environment: Mapping[str, str], timeout: float
) -> dict[str, Any]:
    """What `runner info` says; see `Device.info`."""
    with tempfile.TemporaryDirectory(prefix="hetero-job-") as name:
        done = _execute(device, [*runner, "info"], Path(name), environment, timeout)
        if done.returncode:
            raise _failure(device, Path(name) / FAILURE, done)
    return parse_info(device, done.stdout.decode(errors="replace"))


def _execute(
    device: str, argv: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{device}: the job did not end within {timeout:g} s") from None
    except OSError as error:
        raise DeviceError(f"{device}: cannot start {argv[0]}: {error.strerror}") from None


def _failure(
    device: str, report: Path, done: subprocess.CompletedProcess[bytes]
) -> DeviceError | MissingExtra:
    """What the runner said in its report, else how its process ended."""
    if report.is_file():
        return reported(device, report)
    if done.returncode < 0:
        cause = signal.strsignal(-done.returncode) or "unknown"
        return DeviceError(f"{device}: the runner was killed by signal {-done.returncode} ({cause})")
    last = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    return DeviceError(f"{device}: the runner failed with exit code {done.returncode}: {last}")
