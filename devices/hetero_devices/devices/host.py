"""This machine as a device: every job in a fresh process that cannot import torch (but for ExecuTorch)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hetero_devices
from hetero_devices import strict
from hetero_devices.devices.device import Result
from hetero_devices.devices.job import Job
from hetero_devices.devices.outcome import memory_apart
from hetero_devices.devices.process import ask_process, run_process
from hetero_devices.errors import DeviceError

_INHERITED = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
_THREAD_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class HostDevice:
    """Runs `python -m hetero_devices run JOB.json`.

    timeout: seconds one process may take. python: the interpreter, by default the running one. name: how
    reports call it.
    """

    timeout: float = 900.0
    python: str = sys.executable
    name: str = "host"

    def run(self, job: Job) -> Result:
        """See `Device.run`."""
        return memory_apart(job, self._process)

    def info(self) -> dict[str, Any]:
        """See `Device.info`."""
        return ask_process(self.name, self._runner, environment=runner_environment(1), timeout=self.timeout)

    def close(self) -> None:
        """Nothing is held."""

    @property
    def _runner(self) -> tuple[str, ...]:
        return self.python, "-m", "hetero_devices"

    def _process(self, job: Job) -> Result:
        return run_process(
            self.name, self._runner, job, environment=runner_environment(job.threads), timeout=self.timeout
        )


def runner_environment(threads: int) -> dict[str, str]:
    """Only what a runner needs; PYTHONPATH stays, after the root this package was imported from."""
    root = str(Path(hetero_devices.__file__).parents[1])
    search = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
    return inherited | dict.fromkeys(_THREAD_POOLS, str(threads)) | {"PYTHONPATH": os.pathsep.join(search)}


def build(name: str, connection: Mapping[str, Any]) -> HostDevice:
    """The device of a profile; `connection` may set `timeout` and `python`."""
    fields = {"name": name, **connection}
    return strict.decode(HostDevice, fields, f"connection of device {name}", DeviceError, defaults=True)
