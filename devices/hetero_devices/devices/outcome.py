"""What a runner left behind, read back: the same files whichever way the job reached it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hetero_devices.devices.device import Result
from hetero_devices.devices.job import EMBEDDINGS, FAILURE, STATISTICS, Job, Profile
from hetero_devices.errors import DeviceError, MissingExtra, TransferError
from hetero_devices.files import read_json, sha256_file

_KINDS: dict[str, type[DeviceError | MissingExtra]] = {
    kind.__name__: kind for kind in (MissingExtra, TransferError)
}


def memory_apart(job: Job, run: Callable[[Job], Result]) -> Result:
    """`run` the job; memory beside other tasks in a process of its own, after the rest."""
    others = tuple(task for task in job.tasks if task != "memory")
    if "memory" not in job.tasks or not others:
        return run(job)
    result = run(replace(job, tasks=others))
    memory = run(replace(job, tasks=("memory",))).profile
    return replace(result, profile=replace(result.profile, peak_memory_mb=memory.peak_memory_mb))


def collect(device: str, folder: Path, embedded: bool) -> Result:
    """The result in a job's output folder.

    Raises what the runner reported (MissingExtra, else DeviceError), TransferError when the embeddings are
    not those it wrote, DeviceError when it left no result.
    """
    report = folder / FAILURE
    if report.is_file():
        raise reported(device, report)
    if not (folder / STATISTICS).is_file():
        raise DeviceError(f"{device}: the runner left no result")
    profile = Profile.from_json(read_json(folder / STATISTICS))
    return Result(_embeddings(device, folder / EMBEDDINGS, profile) if embedded else None, profile)


def parse_info(device: str, answer: str) -> dict[str, Any]:
    """What a runner's `info` printed; DeviceError when it is something else."""
    try:
        found = json.loads(answer)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or not {"cpu", "runtimes"} <= found.keys():
        said = " ".join(answer.split())[:100] or "it said nothing"
        raise DeviceError(f"{device}: the runner's answer is not understood: {said}")
    return found


def reported(device: str, report: Path) -> DeviceError | MissingExtra:
    """The error that a runner's failure report describes."""
    failure = read_json(report)
    if not isinstance(failure, dict) or not {"error", "message"} <= failure.keys():
        return DeviceError(f"{device}: the runner failed and its report is not understood")
    return _KINDS.get(failure["error"], DeviceError)(f"{device}: {failure['message']}")


def _embeddings(
    device: str, path: Path, profile: Profile
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if not path.is_file():
        raise DeviceError(f"{device} returned no embeddings")
    if profile.digests.get("embeddings", written := sha256_file(path)) != written:
        raise TransferError(f"{device}: the embeddings were damaged on their way back")
    try:
        embeddings = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DeviceError(f"{device} returned embeddings that cannot be read: {error}") from None
    if embeddings.dtype != np.float32 or embeddings.ndim != 2:
        found = f"{embeddings.dtype} {list(embeddings.shape)}"
        raise DeviceError(f"{device} returned {found} for embeddings, expected float32 [N, D]")
    return np.asarray(embeddings)
