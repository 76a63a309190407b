"""What a page posts, checked before it is written: sizes, types, lengths, finite numbers."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hetero_devices import strict
from hetero_devices.devices.job import EMBEDDINGS, FAILURE, STATISTICS, Job, Profile
from hetero_devices.errors import DeviceError
from hetero_devices.files import atomic_file, write_json

_DIMENSIONS = 16384  # no embedding is wider
_HEADER = 10 * 1024
_AT_MOST = 1 << 30
_ERRORS = Literal["DataError", "DeviceError", "MissingExtra", "ModelError", "TransferError"]
_SMALL = {"progress": 4096, "failure": 65536, "statistics": 1 << 20}


class Refused(Exception):
    """A request that is not served: an HTTP status from 400 to 499 and one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a page is doing, and how many of how many images are done."""

    state: str = "starting"
    done: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a page could not do its job: the name of an error of this library and one line."""

    error: _ERRORS
    message: str


def limit(kind: str, images: int) -> int:
    """The most bytes a post of that kind may have."""
    return _SMALL.get(kind) or min(images * _DIMENSIONS * 4 + _HEADER, _AT_MOST)


def save(kind: str, body: bytes, job: Job, images: int, folder: Path) -> Progress | bool:
    """Check one post and write it to the job's folder: the progress, or whether the job ended with it.

    Raises Refused with status 400 for what is malformed, 409 for statistics before their embeddings.
    """
    try:
        return _save(kind, body, job, images, folder)
    except (_Malformed, OverflowError) as error:
        raise Refused(400, str(error)) from None


def _save(kind: str, body: bytes, job: Job, images: int, folder: Path) -> Progress | bool:
    if kind == "progress":
        return strict.decode(Progress, _json(body), "progress", _Malformed)
    if kind == "failure":
        failure = strict.decode(Failure, _json(body), "failure", _Malformed)
        message = " ".join(failure.message.split())[:1000] or "it said nothing"
        write_json(folder / FAILURE, {"error": failure.error, "message": message})
        return True
    if kind == "embeddings":
        check_embeddings(body, images)
        with atomic_file(folder / EMBEDDINGS) as path:
            path.write_bytes(body)
        return False
    profile = _profile(body, job)
    if "embed" in job.tasks and not (folder / EMBEDDINGS).is_file():
        raise Refused(409, "the embeddings come before the statistics")
    write_json(folder / STATISTICS, profile.to_json())
    return True


def check_embeddings(body: bytes, images: int) -> None:
    """Refused unless `body` is a .npy of finite float32 [images, D], whole and with nothing after it."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, EOFError, SyntaxError) as error:
        raise Refused(400, f"the embeddings are no .npy: {' '.join(str(error).split())[:200]}") from None
    if version != (1, 0) or dtype != np.dtype("<f4") or fortran or len(shape) != 2:
        raise Refused(400, f"the embeddings are {dtype} {list(shape)}, expected float32 [{images}, D]")
    if shape[0] != images or not 0 < shape[1] <= _DIMENSIONS:
        raise Refused(400, f"the embeddings are {list(shape)}, expected [{images}, D]")
    values = body[file.tell() :]
    if len(values) != shape[0] * shape[1] * 4:
        raise Refused(400, f"the embeddings have {len(values)} bytes, expected {shape[0] * shape[1] * 4}")
    if not np.isfinite(np.frombuffer(values, "<f4")).all():
        raise Refused(400, "the embeddings hold NaN or infinity")


class _Malformed(DeviceError):
    """What `strict` raises for a post."""


def _profile(body: bytes, job: Job) -> Profile:
    profile = strict.decode(Profile, _json(body), "statistics", _Malformed, defaults=True)
    if profile.threads != job.threads:
        raise Refused(400, f"the statistics are of {profile.threads} threads, not of {job.threads}")
    if ("latency" in job.tasks) != (profile.latency is not None):
        raise Refused(400, "the statistics have a latency exactly when the job asks for it")
    if "embed" in job.tasks and "embeddings" not in profile.digests:
        raise Refused(400, "the statistics lack the digest of the embeddings")
    return profile


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise Refused(400, f"this is no JSON: {' '.join(str(error).split())[:200]}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
