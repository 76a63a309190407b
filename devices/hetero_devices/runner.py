"""The command `hetero-device`: run jobs, verify bundles, describe this machine; needs numpy and a runtime."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hetero_devices import cpu, sensors
from hetero_devices.devices.job import EMBEDDINGS, FAILURE, STATISTICS, Condition, Job, Profile
from hetero_devices.devices.measure import measure_latency, measure_memory, timed
from hetero_devices.energy import find_meter, metered
from hetero_devices.errors import DataError, DeviceError, HeteroError, TransferError
from hetero_devices.files import read_json, save_array, sha256_file, write_json
from hetero_devices.runtimes import (
    FORMATS,
    NEEDS_TORCH,
    format_of,
    import_runtime,
    installed,
    load,
    placement,
)
from hetero_devices.verify import Check, verify

DONE, GATE_FAILED, BAD_INPUT = 0, 1, 2


class TorchBlocker:
    """An import hook that refuses torch: what runs here must run where torch is not installed.

    Not so a job whose runtime needs torch itself; `_run` removes the hook for it.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] == "torch":
            raise ImportError("the device runner must not import torch", name=name)
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 1 a check failed, 2 usage or bad input."""
    sys.meta_path.insert(0, TorchBlocker)
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except (HeteroError, OSError) as error:
        print(f"error: {_message(error)}", file=sys.stderr)
        return BAD_INPUT
    return code


def run_job(job: Job) -> None:
    """Do a job whose paths are absolute; write `embeddings.npy` when asked for and always `statistics.json`.

    Raises DataError, ModelError, MissingExtra, or DeviceError when `memory` is mixed with other tasks.
    """
    _check_digests(job)
    _pin(job.cpus)
    before = sensors.condition()
    images = _images(Path(job.images))
    profile, embeddings = _memory(job, images) if "memory" in job.tasks else _others(job, images)
    digests = {}
    if embeddings is not None:
        save_array(Path(job.output) / EMBEDDINGS, embeddings)
        digests["embeddings"] = sha256_file(Path(job.output) / EMBEDDINGS)
    profile = replace(_around(profile, before, sensors.condition()), digests=digests)
    write_json(Path(job.output) / STATISTICS, profile.to_json())


def _around(profile: Profile, before: Condition, after: Condition) -> Profile:
    """The profile with what the machine said of itself before and after."""
    return replace(
        profile,
        before=before,
        after=after,
        throttled=sensors.throttled_between(before, after),
        clock_dropped=sensors.clock_dropped(before, after),
    )


def _check_digests(job: Job) -> None:
    for name, expected in job.digests.items():
        path = Path(getattr(job, name))
        if not path.is_file() or sha256_file(path) != expected:
            raise TransferError(f"the {name} {path.name} did not arrive as they were sent: send them again")


def _pin(processors: tuple[int, ...]) -> None:
    if not processors:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise DeviceError("this system cannot pin a process to processors: leave `cpus` empty")
    try:
        os.sched_setaffinity(0, processors)
    except OSError:
        there = sorted(os.sched_getaffinity(0))
        raise DeviceError(
            f"there are no processors {list(processors)} to pin to: usable are {there}"
        ) from None


def _others(job: Job, images: npt.NDArray[np.uint8]) -> tuple[Profile, npt.NDArray[np.float32] | None]:
    import_runtime(format_of(Path(job.model)))
    session, load_ms = timed(lambda: load(Path(job.model), threads=job.threads))
    measured: dict[str, Any] = {"latency": None}
    if "latency" in job.tasks:  # before embedding, so that the first inference is the first
        with metered(find_meter()) as energy:
            latency = measure_latency(session, _some(images), job.stopping, load_ms=load_ms)
        each = energy.mj_each(1 + latency.warm_up + latency.samples)
        measured = {"latency": latency, "energy_mj": each, "energy_source": energy.source}
    embeddings = session.run(images) if "embed" in job.tasks else None
    where = placement(Path(job.model)) if "placement" in job.tasks else None
    return _profile(job, session.details, peak_memory_mb=None, placement=where, **measured), embeddings


def _memory(job: Job, images: npt.NDArray[np.uint8]) -> tuple[Profile, None]:
    if job.tasks != ("memory",):
        raise DeviceError("memory is measured in a process of its own: give it a job of its own")
    import_runtime(format_of(Path(job.model)))
    session, peak = measure_memory(lambda: load(Path(job.model), threads=job.threads), _some(images))
    return _profile(job, session.details, latency=None, peak_memory_mb=peak), None


def _profile(job: Job, runtime: dict[str, Any], **measured: Any) -> Profile:
    versions = {"python": platform.python_version(), "numpy": np.__version__, "system": platform.platform()}
    return Profile(
        threads=job.threads,
        runtime=runtime,
        cpu=cpu.describe(),
        versions=versions,
        **measured,
    )


def _images(path: Path) -> npt.NDArray[np.uint8]:
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the images {path}: {error}") from None
    if images.dtype != np.uint8:
        raise DataError(f"images in {path.name} are {images.dtype}, expected uint8: give the pixels 0..255")
    checked: npt.NDArray[np.uint8] = images
    return checked


def _some(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if not len(images):
        raise DataError("measuring needs at least one image")
    return np.array(images[:256])  # in memory: a page fault is no part of an inference


def _run(options: argparse.Namespace) -> int:
    job = Job.from_json(read_json(options.job)).relative_to(options.job.resolve().parent)
    if format_of(Path(job.model)) in NEEDS_TORCH and TorchBlocker in sys.meta_path:
        sys.meta_path.remove(TorchBlocker)
    try:
        run_job(job)
    except (HeteroError, OSError) as error:
        _report(Path(job.output), error)
        raise
    print(Path(job.output) / STATISTICS)
    return DONE


def _report(output: Path, error: Exception) -> None:
    """Leave the error where a device finds it, if anything can still be written there."""
    try:
        write_json(output / FAILURE, {"error": type(error).__name__, "message": _message(error)})
    except OSError:
        return


def _verify(options: argparse.Namespace) -> int:
    checks = verify(options.bundle, formats=options.format)
    if options.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print("\n".join(map(_line, checks)))
    return DONE if all(check.passed for check in checks) else GATE_FAILED


def _line(check: Check) -> str:
    numbers = "" if check.value is None else f" {check.value:.2e} (at most {check.threshold:.2e})"
    return f"{'pass' if check.passed else 'FAIL'}  {check.name}{numbers}: {check.detail}"


def _hold(options: argparse.Namespace) -> int:
    """Own the device while standard input is open: a host that is gone has closed it."""
    import fcntl  # POSIX alone

    options.lock.parent.mkdir(parents=True, exist_ok=True)
    with options.lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(f"busy {file.read(200).strip()}", flush=True)
            return GATE_FAILED
        file.truncate(0)
        file.write(options.owner)
        file.flush()
        print("held", flush=True)
        sys.stdin.read()
        file.truncate(0)
    return DONE


def _info(options: argparse.Namespace) -> int:
    print(json.dumps({"cpu": cpu.describe().to_json(), "runtimes": installed()}, indent=2))
    return DONE


def _message(error: Exception) -> str:
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hetero-device", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="do a job, e.g. hetero-device run JOB.json")
    run.add_argument("job", type=Path, metavar="JOB.json", help="paths in it start at its own folder")
    run.set_defaults(command=_run)
    check = commands.add_parser("verify", help="check a bundle, e.g. hetero-device verify BUNDLE")
    check.add_argument("bundle", type=Path, metavar="BUNDLE")
    check.add_argument("--format", action="append", choices=FORMATS, help="only this one; repeatable")
    check.add_argument("--json", action="store_true", help="print the checks as JSON")
    check.set_defaults(command=_verify)
    hold = commands.add_parser("hold", help="own the device while standard input stays open")
    hold.add_argument("lock", type=Path, metavar="LOCKFILE")
    hold.add_argument("owner", help="who, for another that finds it held")
    hold.set_defaults(command=_hold)
    info = commands.add_parser("info", help="print processor and runtimes as JSON")
    info.set_defaults(command=_info)
    return parser


if __name__ == "__main__":
    sys.exit(main())
