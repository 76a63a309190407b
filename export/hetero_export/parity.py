"""How close an exported model's embeddings are to the network's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DataError
from hetero_devices.verify import cosine_distance

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """Row by row: cosine (smallest, mean, first percentile) and the largest difference of any element."""

    cosine_min: float
    cosine_mean: float
    cosine_p01: float
    max_abs_error: float


def parity(reference: Vectors, exported: Vectors) -> Parity:
    """Compare float32 [N, D] row by row; a row that is not finite counts as cosine 0 and infinite error.

    Raises DataError for different or empty shapes.
    """
    if reference.shape != exported.shape or reference.ndim != 2 or len(reference) == 0:
        found = f"{list(reference.shape)} and {list(exported.shape)}"
        raise DataError(
            f"embeddings of shapes {found} cannot be compared: both must be [N, D] of the same images"
        )
    cosine = 1 - cosine_distance(exported, reference)
    error = float(np.abs(exported.astype(np.float64) - reference).max())
    return Parity(
        cosine_min=float(cosine.min()),
        cosine_mean=float(cosine.mean()),
        cosine_p01=float(np.quantile(cosine, 0.01)),
        max_abs_error=error if np.isfinite(error) else float("inf"),
    )
