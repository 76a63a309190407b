"""Embedding many images on a device, shard by shard, so that a cut connection costs one shard."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hetero_devices.devices.device import Device, Result
from hetero_devices.devices.job import EMBEDDINGS, STATISTICS, Job, Profile
from hetero_devices.devices.outcome import collect
from hetero_devices.errors import DeviceError
from hetero_devices.files import atomic_directory, save_array, sha256_file, write_json

SHARD = 256  # images: a few seconds on a phone, a few MB on the way

Images = npt.NDArray[np.uint8]


def embed_in_shards(
    device: Device,
    model: Path,
    images: Images,
    folder: Path,
    *,
    shard: int = SHARD,
    threads: int = 1,
    advance: Callable[[int], None] = lambda count: None,
) -> Result:
    """Embed uint8 [N, H, W, 3] -> float32 [N, D]; finished shards stay in `folder` and are not done again.

    What stays is found by the device's name, the model file's content, the images and the threads, so a
    folder may serve any number of devices, bundles and image sets. advance: called with the number of images
    of every shard that is there. The profile is the last shard's.
    Raises as `Device.run`; DeviceError when the machine behind the name changed between two shards.
    """
    home = folder / _key(device.name, model, images, shard, threads)
    parts: list[Result] = []
    for index, rows in enumerate(_rows(len(images), shard)):
        part = _shard(device, model, images[rows], home / f"{index:05d}", threads)
        if parts and _machine(part.profile) != _machine(parts[0].profile):
            raise DeviceError(
                f"{device.name} is another machine or runtime than when {home} was begun: delete that folder"
            )
        parts.append(part)
        advance(len(images[rows]))
    if not parts:
        raise DeviceError("there are no images to embed")
    vectors = [part.embeddings for part in parts if part.embeddings is not None]
    return Result(np.concatenate(vectors), parts[-1].profile)


def _shard(device: Device, model: Path, images: Images, home: Path, threads: int) -> Result:
    if home.is_dir():
        return collect(device.name, home, True)
    with tempfile.TemporaryDirectory(prefix="hetero-") as name:
        path = Path(name) / "images.npy"
        save_array(path, images)
        result = device.run(Job(model=str(model), images=str(path), tasks=("embed",), threads=threads))
    if result.embeddings is None or len(result.embeddings) != len(images):
        raise DeviceError(f"{device.name} did not embed all of the {len(images)} images")
    with atomic_directory(home) as finished:
        save_array(finished / EMBEDDINGS, result.embeddings)
        digests = {"embeddings": sha256_file(finished / EMBEDDINGS)}
        write_json(finished / STATISTICS, replace(result.profile, digests=digests).to_json())
    return result


def _rows(count: int, shard: int) -> Iterator[slice]:
    return (slice(start, start + shard) for start in range(0, count, shard))


def _key(device: str, model: Path, images: Images, shard: int, threads: int) -> str:
    digest = hashlib.sha256(f"{device}\0{sha256_file(model)}\0{images.shape}\0{shard}\0{threads}\0".encode())
    for rows in _rows(len(images), shard):
        digest.update(images[rows].tobytes())
    return digest.hexdigest()[:16]


def _machine(profile: Profile) -> tuple[object, ...]:
    """What decides the numbers: processor, runtime and its version, kernels."""
    runtime = {key: profile.runtime.get(key) for key in ("runtime", "version", "xnnpack_partitions")}
    return profile.cpu.machine, profile.cpu.model, profile.cpu.flags, tuple(runtime.items())
