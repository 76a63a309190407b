"""What all conversions share: silence, one kind of error, an untouched network, checked calibration."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hetero.models.deploy import Deploy
from hetero_devices import runtimes
from hetero_devices.errors import DataError, HeteroError, ModelError
from hetero_devices.runtimes.base import one_line
from hetero_export.quiet import quiet

MINIMUM_CALIBRATION = 8
"""Fewer images do not show the range of an activation; 100 or more of the real kind are advised."""

Images = npt.NDArray[np.uint8]


@contextmanager
def converting(target: str) -> Iterator[None]:
    """Silence converters and turn whatever they raise into ModelError; a full disk stays an OSError."""
    try:
        with quiet():
            yield
    except (HeteroError, OSError, MemoryError):
        raise
    except Exception as error:  # converters share no narrower base
        raise ModelError(f"the network does not convert to {target}: {one_line(_root(error))}") from error


def _root(error: BaseException) -> Exception:
    """The first cause: outer converter errors only say that some step failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def exportable(deploy: Deploy) -> Deploy:
    """A copy on the CPU, in evaluation mode and without gradients; the caller's module is not touched."""
    return copy.deepcopy(deploy).cpu().eval().requires_grad_(False)


def check_calibration(images: npt.NDArray[np.generic]) -> None:
    """Raise DataError unless `images` is uint8 [K, S, S, 3] with K >= 8, not all the same."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        found = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"calibration images are {found}, expected uint8 [K, S, S, 3]: pass camera bytes")
    if len(images) < MINIMUM_CALIBRATION:
        raise DataError(
            f"{len(images)} calibration images do not show the range of activations: "
            f"give at least {MINIMUM_CALIBRATION}, better 100, of the kind the model will meet"
        )
    if (images == images[0]).all():
        raise DataError(f"the {len(images)} calibration images are all the same: give different ones")


def check_runs(source: Path, images: Images) -> None:
    """Raise DataError unless the images fit the model at `source`, ModelError unless it runs them."""
    try:
        runtimes.load(source).run(images[:2])
    except DataError as error:
        raise DataError(f"calibration {error}") from None
