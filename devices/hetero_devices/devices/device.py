"""One interface to whatever runs a model: this host, other machines, phones, browsers, an emulator."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hetero_devices.devices.job import Job, Profile
from hetero_devices.errors import DeviceError


@dataclass(frozen=True)
class Result:
    """embeddings: float32 [N, D], None unless the job asked to embed; profile: what ran and what it cost."""

    embeddings: npt.NDArray[np.float32] | None
    profile: Profile


class Device(Protocol):
    """Somewhere a job can run; use it in `contextlib.closing`, since some hold a connection."""

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    def run(self, job: Job) -> Result:
        """Run a job to its end.

        `job.output` is not used: the results come back. Raises MissingExtra when the device lacks the
        runtime, DeviceError with the runner's one line for everything else that goes wrong there.
        """
        ...

    def info(self) -> dict[str, Any]:
        """What the machine says of itself: `cpu` as in `Profile`, `runtimes` (name -> version or None).

        Raises DeviceError as `run`.
        """
        ...

    def close(self) -> None:
        """Give up the connection, if there is one; the device may not be used afterwards."""
        ...


def embed(
    device: Device, model: Path, images: npt.NDArray[np.uint8], *, threads: int = 1
) -> tuple[npt.NDArray[np.float32], Profile]:
    """Embed images that are in memory: uint8 [N, H, W, 3] -> float32 [N, D] and what ran. Raises as `run`."""
    with tempfile.TemporaryDirectory(prefix="hetero-") as folder:
        path = Path(folder) / "images.npy"
        np.save(path, images, allow_pickle=False)
        result = device.run(Job(model=str(model), images=str(path), tasks=("embed",), threads=threads))
    if result.embeddings is None:
        raise DeviceError(f"{device.name} returned no embeddings")
    return result.embeddings, result.profile
