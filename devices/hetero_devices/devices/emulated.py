"""An ARM machine emulated on this one: the bits of ARM builds of both runtimes, and nothing about time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hetero_devices
from hetero_devices import strict
from hetero_devices.devices.device import Result
from hetero_devices.devices.emulation import Machine, check_cpu, default_cache, open_machine
from hetero_devices.devices.job import Condition, Job, Task
from hetero_devices.devices.process import ask_process, run_process
from hetero_devices.errors import DeviceError

_MEANINGFUL: tuple[Task, ...] = ("embed", "placement")
_THREAD_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class EmulatedDevice:
    """Runs the Python runner with the ARM wheels under qemu-user; `emulation.set_up` comes first.

    cpu: a named core of `emulation.CORES`. cache: where the machine was set up. timeout: seconds a job
    may take; an inference takes hundreds of times what it takes on a device.
    """

    cpu: str = "cortex-a76"
    cache: str = ""
    timeout: float = 3600.0
    name: str = "emulated"

    def run(self, job: Job) -> Result:
        """See `Device.run`. The profile is marked `emulated` and has neither latency nor memory.

        Raises DeviceError for a job that asks for nothing else, and when LiteRT ran without XNNPACK.
        """
        tasks = tuple(task for task in job.tasks if task in _MEANINGFUL)
        if not tasks:
            raise DeviceError(
                f"{self.name}: latency and memory of an emulated processor say nothing about a device: "
                "measure on one, and embed here"
            )
        machine = open_machine(Path(self.cache or default_cache()), self.cpu)
        result = self._process(machine, replace(job, tasks=tasks, cpus=()))
        if result.profile.runtime.get("xnnpack_partitions") == 0:
            raise DeviceError(
                f"{self.name}: LiteRT ran {Path(job.model).name} without XNNPACK, by the builtin kernels: "
                "their embeddings are not those of a device that has it"
            )
        return result

    def info(self) -> dict[str, Any]:
        """See `Device.info`."""
        machine = open_machine(Path(self.cache or default_cache()), self.cpu)
        with self._runner(machine, 1) as (runner, environment):
            return ask_process(self.name, runner, environment=environment, timeout=self.timeout)

    def close(self) -> None:
        """Nothing is held."""

    def _process(self, machine: Machine, job: Job) -> Result:
        with self._runner(machine, job.threads) as (runner, environment):
            result = run_process(self.name, runner, job, environment=environment, timeout=self.timeout)
        versions = result.profile.versions | {"qemu": machine.emulation.versions["qemu"], "core": self.cpu}
        profile = replace(
            result.profile,
            emulated=True,
            latency=None,
            peak_memory_mb=None,
            before=Condition(),
            after=Condition(),
            versions=versions,
        )
        return replace(result, profile=profile)

    @contextmanager
    def _runner(self, machine: Machine, threads: int) -> Iterator[tuple[list[str], dict[str, str]]]:
        """The runner's words and environment, with a folder of this package alone.

        Beside the package may lie the host's builds of the same runtimes.
        """
        with tempfile.TemporaryDirectory(prefix="hetero-emulated-") as name:
            (Path(name) / "hetero_devices").symlink_to(Path(hetero_devices.__file__).parent)
            words = [*machine.argv(machine.python), "-m", "hetero_devices"]
            yield words, _environment(machine, threads, name)


def _environment(machine: Machine, threads: int, package: str) -> dict[str, str]:
    """Only what the runner needs: a library path of the host would mislead it."""
    inherited = {key: os.environ[key] for key in ("HOME", "TMPDIR") if key in os.environ}
    python = {
        "PYTHONPATH": os.pathsep.join([str(machine.site), package]),
        "PYTHONPYCACHEPREFIX": str(machine.folder / "bytecode"),  # compiling takes seconds, under emulation
    }
    return inherited | dict.fromkeys(_THREAD_POOLS, str(threads)) | python


def build(name: str, connection: Mapping[str, Any]) -> EmulatedDevice:
    """The device of a profile; `connection` may set `cpu`, `cache` and `timeout`."""
    fields = {"name": name, **connection}
    device = strict.decode(EmulatedDevice, fields, f"connection of device {name}", DeviceError, defaults=True)
    check_cpu(device.cpu)
    return device
