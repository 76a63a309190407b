"""How far a device's embeddings of the golden images may be from the network's."""

from __future__ import annotations

from hetero_devices.bundle import Precision
from hetero_devices.errors import ModelError

FLOAT = 1e-5
KERNELS = 2e-2
MARGIN = 1.5
LOST = 0.1


def tolerance(precision: Precision, distance: float, file: str) -> float:
    """The largest 1 - cosine to allow on any golden image, given the largest one measured on this host.

    float32: 1e-5. Runtimes and processors differ by 4e-7; more is another network. Not scaled by the
    measurement, so that an inexact conversion fails here instead of widening its own limit.

    int8: 1.5 x measured + 2e-2. The quantisation error is a property of the file and stays; kernel sets
    round differently and add to it (XNNPACK against the builtin kernels up to 3e-3, against the reference
    kernels up to 1e-2, here doubled). A model broken on a device is far outside: saturating kernels
    reach 0.67, swapped colour channels or a missing normalisation as much.

    Raises ModelError when the measured distance is not acceptable: above 1e-5 in float32, above 0.1 in
    int8, where the limit could no longer tell a broken model from a working one.
    """
    if precision == "fp32":
        if distance > FLOAT:
            raise ModelError(f"{file} does not compute what the network does: 1 - cosine is {distance:.1e}")
        return FLOAT
    if distance > LOST:
        raise ModelError(
            f"{file} loses the space: 1 - cosine reaches {distance:.2f} on the golden images; "
            "calibrate with more images of their kind, train longer, or export fp32 only"
        )
    return round(MARGIN * distance + KERNELS, 4)
